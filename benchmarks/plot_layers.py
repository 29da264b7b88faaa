"""Draws the rows of `einforge bench --json` as an SVG: how many times as fast
as dense each implementation is, and how fast the hardware would allow.

  python3 benchmarks/plot_layers.py results/h100/layers.json docs/images/layers.svg

Needs nothing but Python. The picture follows the reader's light or dark theme.
"""

import argparse
import html
import json
import math

STYLE = """
  :root { --page: #fff; --text: #1b1d21; --muted: #5d636d; --grid: #e2e3e5;
          --einforge: #2456c7; --torch_compile: #8a5a00; --bmm: #7f8691;
          --einsum: #b9bdc4; --inference: #1a7f4b; }
  @media (prefers-color-scheme: dark) {
    :root { --page: #121316; --text: #e8e9eb; --muted: #a0a6b0; --grid: #2d3037;
            --einforge: #8fb0ff; --torch_compile: #e5b04f; --bmm: #8b929d;
            --einsum: #565c66; --inference: #5cc98f; }
  }
  .page { fill: var(--page); }
  text { fill: var(--text); font: 13px system-ui, -apple-system, "Segoe UI",
         Roboto, sans-serif; font-variant-numeric: tabular-nums; }
  .muted { fill: var(--muted); font-size: 12px; }
  .title { font-weight: 600; font-size: 14px; }
  .grid { stroke: var(--grid); }
  .one { stroke: var(--muted); stroke-dasharray: 3 3; }
  .limit { stroke: var(--text); stroke-width: 2; }
"""
PASSES = {"forward": "Forward", "forward_backward": "Forward + backward"}
SHOWN = ("einforge", "inference", "torch_compile", "bmm", "einsum")
NAMES = {"torch_compile": "torch.compile of einsum", "einsum": "torch.einsum",
         "bmm": "batched matmuls", "inference": "einforge, may merge"}
LABEL, PANEL, GAP, BAR, ROW_GAP, TOP = 190, 330, 24, 12, 14, 74


def label_of(row):
    name = row["structure"]
    if row["rank"] > 1 and "sizes" in row:
        name = f"{name.split(':')[0]}, rank {row['rank']}"
    width = (
        str(row["d_in"])
        if row["d_in"] == row["d_out"]
        else f"{row['d_in']} to {row['d_out']}"
    )
    return f"{width} {name}", row.get("routing", "")


def key_of(row):
    return (row["structure"], row["d_in"], row["d_out"], row["tokens"],
            row.get("routing", ""))


def nice_step(largest):
    step = 10 ** math.floor(math.log10(largest / 4))
    return next(step * m for m in (1, 2, 5, 10) if largest / (step * m) <= 6)


def short(ratio):
    return f"{ratio:.1f}" if ratio >= 1.095 else f"{ratio:.2f}"


def draw(report):
    rows = [row for row in report["rows"] if "ratio_to_dense" in row]
    passes = [p for p in PASSES if any(row["pass"] == p for row in rows)]
    layers = list(dict.fromkeys(map(key_of, rows)))
    table = {(key_of(r), r["pass"], r["implementation"]): r for r in rows}
    shown = [name for name in SHOWN
             if any(row["implementation"] == name for row in rows)]

    def limit(layer, which):
        dense = table.get((layer, which, "dense"))
        ours = table.get((layer, which, "einforge"))
        return dense["median_ms"] / ours["limit_ms"] if dense and ours else None

    largest = max(
        [row["ratio_to_dense"] for row in rows if row["implementation"] in shown]
        + [limit(layer, p) or 1 for layer in layers for p in passes])
    step = nice_step(largest)
    scale = (PANEL - 40) / largest
    group = len(shown) * BAR + ROW_GAP
    width = LABEL + len(passes) * (PANEL + GAP)
    height = TOP + len(layers) * group + 46
    device, first = report["device"], rows[0]
    same_tokens = len({row["tokens"] for row in rows}) == 1
    about = ", ".join(
        [device["name"], first["dtype"]]
        + ([f"{first['tokens']:,} tokens"] if same_tokens else []))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img" aria-label="Layers '
        'against dense"><style>' + STYLE + "</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text x="12" y="20" class="muted">{html.escape(about)}. Bars: times as '
        "fast as dense; the mark: what memory and matmul speed allow.</text>",
    ]
    x = 12
    for name in shown:
        text = NAMES.get(name, name)
        out.append(f'<rect x="{x}" y="32" width="12" height="12" '
                   f'fill="var(--{name})"/><text x="{x + 18}" y="43">{text}</text>')
        x += 42 + 7 * len(text)
    for index, which in enumerate(passes):
        left = LABEL + index * (PANEL + GAP)
        bottom = TOP + len(layers) * group
        out.append(f'<text x="{left}" y="{TOP - 10}" class="title">'
                   f"{PASSES[which]}</text>")
        tick = 0.0
        while tick <= largest:
            at = left + tick * scale
            out.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>'
                       f'<text class="muted" x="{at:.1f}" y="{bottom + 18}" '
                       f'text-anchor="middle">{tick:g}</text>')
            tick += step
        at = left + scale
        out.append(f'<path class="one" d="M{at:.1f} {TOP}V{bottom}"/>')
        for place, layer in enumerate(layers):
            y = TOP + place * group
            for line, name in enumerate(shown):
                row = table.get((layer, which, name))
                if row is None:
                    continue
                length = row["ratio_to_dense"] * scale
                top = y + line * BAR
                out.append(
                    f'<rect x="{left}" y="{top}" width="{length:.1f}" '
                    f'height="{BAR - 2}" fill="var(--{name})"><title>'
                    f'{html.escape(name)}: {row["median_ms"]:.4f} ms</title></rect>')
                if name in ("einforge", "inference"):
                    most = limit(layer, which)
                    end = left + length + 5
                    mark = left + most * scale if most else 0
                    if mark - 3 < end + 28 and mark > end - 5:
                        end = mark + 5  # beside the mark, not under it
                    out.append(f'<text x="{end:.1f}" y="{top + 9}" class="muted">'
                               f"{short(row['ratio_to_dense'])}</text>")
            most = limit(layer, which)
            if most:
                at = left + most * scale
                out.append(f'<path class="limit" d="M{at:.1f} {y}v'
                           f'{len(shown) * BAR - 2}"/>')
    for place, layer in enumerate(layers):
        row = next(r for r in rows if key_of(r) == layer)
        name, routing = label_of(row)
        y = TOP + place * group + 11
        extra = routing or ("" if same_tokens else f"{row['tokens']} tokens")
        out.append(f'<text x="{LABEL - 12}" y="{y}" text-anchor="end">'
                   f"{html.escape(name)}</text>")
        if extra:
            out.append(f'<text x="{LABEL - 12}" y="{y + 14}" class="muted" '
                       f'text-anchor="end">{html.escape(extra)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("json")
    parser.add_argument("svg")
    args = parser.parse_args()
    with open(args.json) as file:
        picture = draw(json.load(file))
    with open(args.svg, "w") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
