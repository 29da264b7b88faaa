"""Sums up `einforge bench --suite coverage --json`: a Markdown table of how many
times as fast as dense each structure is, with geometric means, and a picture of
the same over the size of the layer, in which a cliff shows.

  python3 benchmarks/coverage.py results/h200/coverage.json docs/images/coverage.svg
  python3 benchmarks/coverage.py results/h200/coverage.json --summary
  python3 benchmarks/coverage.py results/h200/coverage.json \\
    --structure btt_moe:E=16,k=2 --shapes 768,1024,768x3072

Needs nothing but Python. In the table, forward / forward + backward; with
--kernels, those that ran. --summary prints geometric means, worst and best
shapes instead, and how fast the dense matrix ran where it was chosen;
--structure one structure's times, of all shapes or those named.
"""

import argparse
import json
import math

from plot_layers import STYLE

PASSES = {"forward": "Forward", "forward_backward": "Forward + backward"}
COLORS = ("#2456c7", "#8a5a00", "#1a7f4b", "#b3261e", "#7f8691", "#7a3fb0",
          "#c56a9a")
WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 330, 56, 84, 50


def read(path):
    with open(path) as file:
        report = json.load(file)
    rows = [row for row in report["rows"] if row["implementation"] == "einforge"]
    return report, rows


def split(rows):
    """The rows of the shapes, and those of other numbers of experts."""
    shapes, first = [], {}
    others = []
    structures = []
    for row in rows:
        key = (row["structure"], row["d_in"], row["d_out"], row["pass"])
        if row["structure"] not in structures:
            structures.append(row["structure"])
        first.setdefault(key, row)
    most = max(len({(r["d_in"], r["d_out"]) for r in rows
                    if r["structure"] == name}) for name in structures)
    whole = [name for name in structures
             if len({(r["d_in"], r["d_out"]) for r in rows
                     if r["structure"] == name}) == most]
    for row in first.values():
        (shapes if row["structure"] in whole else others).append(row)
    return whole, shapes, others


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def table(structures, shapes, with_kernels):
    dense = {}
    found = {}
    for row in shapes:
        layer = (row["d_in"], row["d_out"])
        found[layer, row["structure"], row["pass"]] = row
        dense[layer, row["pass"]] = row["median_ms"] * row["ratio_to_dense"]
    layers = list(dict.fromkeys((r["d_in"], r["d_out"]) for r in shapes))
    lines = ["| layer | dense, ms | " + " | ".join(structures) + " |",
             "|---" * (len(structures) + 2) + "|"]
    for layer in layers:
        cells = []
        for name in structures:
            pair = [found[layer, name, which] for which in PASSES]
            cell = " / ".join(f"{r['ratio_to_dense']:.2f}" for r in pair)
            if with_kernels:
                ran = "; ".join("+".join(r.get("kernels", [])) for r in pair)
                cell += f" ({ran})"
            cells.append(cell)
        times = " / ".join(f"{dense[layer, which]:.3f}" for which in PASSES)
        lines.append(f"| {layer[0]} -> {layer[1]} | {times} | " +
                     " | ".join(cells) + " |")
    means = []
    for name in structures:
        ratios = [[found[layer, name, which]["ratio_to_dense"]
                   for layer in layers] for which in PASSES]
        means.append(" / ".join(f"{geometric_mean(r):.2f}" for r in ratios))
    lines.append("| geometric mean | | " + " | ".join(means) + " |")
    return "\n".join(lines)


def table_of_experts(others):
    lines = ["| width | mixture | forward, ms | forward + backward, ms |",
             "|---|---|---|---|"]
    pairs = {}
    for row in others:
        pairs.setdefault((row["d_in"], row["structure"]), {})[row["pass"]] = row
    for (width, name), pair in pairs.items():
        lines.append(f"| {width} | {name} | " + " | ".join(
            f"{pair[which]['median_ms']:.3f}" for which in PASSES) + " |")
    return "\n".join(lines)


def extremes(rows):
    """The geometric mean of rows, and the worst and the best with its shape."""
    def cell(row):
        side = f"{row['d_in']}"
        if row["d_out"] != row["d_in"]:
            side += f" to {row['d_out']}"
        return f"{row['ratio_to_dense']:.2f} ({side})"

    ordered = sorted(rows, key=lambda row: row["ratio_to_dense"])
    mean = geometric_mean([row["ratio_to_dense"] for row in rows])
    return [f"{mean:.2f}", cell(ordered[0]), cell(ordered[-1])]


def summary(structures, shapes, rows):
    lines = ["| structure | forward | worst | best | forward + backward | worst "
             "| best | slower than dense |", "|---" * 8 + "|"]
    for name in structures:
        ratios = [row["ratio_to_dense"] for row in shapes
                  if row["structure"] == name]
        cells = []
        for which in PASSES:
            cells += extremes([row for row in shapes if row["pass"] == which
                               and row["structure"] == name])
        cells.append(f"{sum(r < 1 for r in ratios)} of {len(ratios)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    ratios = [row["ratio_to_dense"] for row in rows
              if row.get("kernels") == ["merged"]]
    if ratios:
        lines += ["", f"{len(ratios)} of {len(rows)} rows ran as the dense "
                  f"matrix: {min(ratios):.2f} to {max(ratios):.2f}, "
                  f"{sum(ratio < 0.85 for ratio in ratios)} below 0.85."]
    return "\n".join(lines)


def table_of_one(name, shapes, wanted):
    found = {}
    for row in shapes:
        if row["structure"] == name:
            found.setdefault((row["d_in"], row["d_out"]), {})[row["pass"]] = row
    lines = ["| layer | dense, forward | ours | speed | dense, forward + backward "
             "| ours | speed |", "|---" * 7 + "|"]
    for layer in wanted or found:
        cells = [f"{layer[0]}" if layer[0] == layer[1] else
                 f"{layer[0]} to {layer[1]}"]
        for which in PASSES:
            row = found[layer][which]
            ours, ratio = row["median_ms"], row["ratio_to_dense"]
            cells += [f"{ours * ratio:.3f}", f"{ours:.3f}", f"{ratio:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layers_of(text):
    for item in text.split(","):
        sides = item.split("x")
        yield int(sides[0]), int(sides[-1])


def draw(report, structures, shapes):
    sizes = [math.log2(math.sqrt(r["d_in"] * r["d_out"])) for r in shapes]
    ratios = [math.log2(r["ratio_to_dense"]) for r in shapes]
    low, high = math.floor(min(ratios)), math.ceil(max(ratios))
    first, last = min(sizes) - 0.2, max(sizes) + 0.2
    width = LEFT + 2 * (WIDTH + GAP)
    height = TOP + HEIGHT + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Speed over '
        f'dense by width"><style>{STYLE}</style>',
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text x="12" y="20" class="muted">{report["device"]["name"]}, '
        f'{shapes[0]["dtype"]}, {shapes[0]["tokens"]:,} tokens. Times as fast as '
        'dense, over the square root of d_in d_out.</text>']
    x = 12
    for color, name in zip(COLORS, structures):
        out.append(f'<circle cx="{x + 5}" cy="38" r="5" fill="{color}"/>'
                   f'<text x="{x + 16}" y="43">{name}</text>')
        x += 36 + 7.2 * len(name)
    for index, (which, title) in enumerate(PASSES.items()):
        left = LEFT + index * (WIDTH + GAP)
        at_x = lambda v: left + (v - first) / (last - first) * WIDTH
        at_y = lambda v: TOP + (high - v) / (high - low) * HEIGHT
        out.append(f'<text x="{left}" y="{TOP - 12}" class="title">{title}</text>')
        for v in range(low, high + 1):
            style = "one" if v == 0 else "grid"
            out.append(f'<path class="{style}" d="M{left} {at_y(v):.1f}h{WIDTH}"/>'
                       f'<text class="muted" x="{left - 8}" y="{at_y(v) + 4:.1f}" '
                       f'text-anchor="end">{2.0 ** v:g}</text>')
        for v in range(math.ceil(first), math.floor(last) + 1):
            out.append(f'<path class="grid" d="M{at_x(v):.1f} {TOP}v{HEIGHT}"/>'
                       f'<text class="muted" x="{at_x(v):.1f}" '
                       f'y="{TOP + HEIGHT + 18}" text-anchor="middle">{2 ** v}'
                       '</text>')
        for color, name in zip(COLORS, structures):
            for row in shapes:
                if row["structure"] == name and row["pass"] == which:
                    size = math.log2(math.sqrt(row["d_in"] * row["d_out"]))
                    out.append(
                        f'<circle cx="{at_x(size):.1f}" '
                        f'cy="{at_y(math.log2(row["ratio_to_dense"])):.1f}" '
                        f'r="4" fill="{color}" fill-opacity="0.75"><title>{name} '
                        f'{row["d_in"]} to {row["d_out"]}: '
                        f'{row["ratio_to_dense"]:.2f}</title></circle>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("json")
    parser.add_argument("svg", nargs="?")
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--structure", metavar="NAME")
    parser.add_argument("--shapes", metavar="LIST", default=[],
                        type=lambda text: list(layers_of(text)))
    args = parser.parse_args()
    report, rows = read(args.json)
    structures, shapes, others = split(rows)
    if args.summary:
        print(summary(structures, shapes, rows))
        return
    if args.structure:
        print(table_of_one(args.structure, shapes, args.shapes))
        return
    print(table(structures, shapes, args.kernels))
    if others:
        print()
        print(table_of_experts(others))
    if args.svg:
        with open(args.svg, "w") as file:
            file.write(draw(report, structures, shapes))


if __name__ == "__main__":
    main()
