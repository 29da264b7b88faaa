"""Prints the rows of `einforge bench --json` as a Markdown table, milliseconds.

  python3 benchmarks/table_layers.py results/h100/layers.json

The last columns: dense's time over einforge's, and the best time of torch's
own ways (einsum, torch_compile) and of plain batched matmuls (bmm) over
einforge's. Ends with how often einforge is slower than each. With several
files, their rows make one table.
"""

import argparse
import json

ORDER = ("dense", "einforge", "inference", "bmm", "einsum", "torch_compile")
OTHERS = ("bmm", "einsum", "torch_compile")
PASSES = {"forward": "forward", "forward_backward": "both"}


def layer_of(row):
    width = (
        str(row["d_in"])
        if row["d_in"] == row["d_out"]
        else f"{row['d_in']} to {row['d_out']}"
    )
    sizes = row.get("sizes")
    if sizes and row["rank"] > 1:
        width += f", rank {row['rank']}"
    name = f"{row['structure']} {row.get('routing', '')}".strip()
    return f"{name}, {width}"


def number(value):
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    groups, several_tokens = {}, set()
    for name in args.files:
        with open(name) as file:
            for row in json.load(file)["rows"]:
                several_tokens.add(row["tokens"])
                key = (layer_of(row), row["tokens"], row["pass"])
                groups.setdefault(key, {})[row["implementation"]] = row
    shown = [n for n in ORDER if any(n in rows for rows in groups.values())]
    tokens_column = len(several_tokens) > 1
    head = ["layer", *(["tokens"] if tokens_column else []), "pass", *shown,
            "over dense", "over the best other"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    slower = {}
    for (layer, tokens, which), rows in groups.items():
        times = {n: r["median_ms"] for n, r in rows.items() if "median_ms" in r}
        ours = times.get("inference", times.get("einforge"))
        cells = [number(times[n]) if n in times
                 else ("failed" if n in rows else "") for n in shown]
        others = [times[n] for n in OTHERS if n in times]
        dense = f"{times['dense'] / ours:.2f}" if ours and "dense" in times else ""
        best = f"{min(others) / ours:.2f}" if ours and others else ""
        for n in ("dense", *OTHERS):
            if ours and n in times:
                slower.setdefault(n, []).append(times[n] / ours)
        row = [layer, *([str(tokens)] if tokens_column else []), PASSES[which],
               *cells, dense, best]
        print("| " + " | ".join(row) + " |")
    print()
    for n, ratios in slower.items():
        count = sum(ratio < 1 for ratio in ratios)
        print(f"- {n} over einforge: {min(ratios):.2f} to {max(ratios):.2f}, "
              f"below 1 in {count} of {len(ratios)}")


if __name__ == "__main__":
    main()
