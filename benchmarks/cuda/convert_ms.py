"""Whether convert_'s report takes the milliseconds that `einforge bench` does.

  EINFORGE_LIBRARY=build/release/lib/libeinforge_python.so PYTHONPATH=python \\
    python3 benchmarks/cuda/convert_ms.py --program build/release/bin/einforge

Layers of the sizes of GPT-2 and of Llama 7B, forward, in bfloat16. The report's
are einforge.nn.Linear with its cores capped beforehand, those of the bench the
operator. Exits 1 where they differ by more than --within.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import torch

import einforge

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from provenance import provenance  # noqa: E402

WIDTHS = ((768, 768), (768, 2304), (768, 3072), (3072, 768), (4096, 4096),
          (4096, 11008), (11008, 4096))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--structures", nargs="+",
                        default=["monarch", "btt:0.25"])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--within", type=float, default=0.1)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    bench = json.loads(subprocess.run(
        [options.program, "bench", "--device", options.device,
         "--dtype", options.dtype, "--tokens", str(options.tokens),
         "--structures", *options.structures, "--widths",
         *(f"{d_in}x{d_out}" for d_in, d_out in WIDTHS),
         "--implementations", "dense,einforge", "--json"],
        check=True, text=True, stdout=subprocess.PIPE).stdout)
    benched = {
        (row["structure"], row["d_in"], row["d_out"], row["implementation"]):
            row["median_ms"]
        for row in bench["rows"] if row["pass"] == "forward"}
    rows, worst = [], 0.0
    for structure in options.structures:
        for d_in, d_out in WIDTHS:
            model = torch.nn.Sequential(torch.nn.Linear(
                d_in, d_out, bias=False, device=options.device,
                dtype=getattr(torch, options.dtype)))
            row, = einforge.convert_(
                model, structure, init="random", tokens=options.tokens)
            if row.skipped:
                print(f"{structure} {d_in} -> {d_out}: {row.skipped}")
                continue
            for name, ms in zip(("dense", "einforge"), row.ms):
                key = (structure, d_in, d_out, name)
                off = ms / benched[key] - 1
                worst = max(worst, abs(off))
                rows.append({
                    "structure": structure, "d_in": d_in, "d_out": d_out,
                    "implementation": name, "report_ms": ms,
                    "bench_ms": benched[key]})
                print(f"{structure:10} {d_in:6} -> {d_out:6} {name:9} report "
                      f"{ms:8.4f} ms  bench {benched[key]:8.4f} ms  "
                      f"{100 * off:+6.1f}%")
    print(f"largest difference {100 * worst:.1f}%")
    if options.json:
        options.json.write_text(json.dumps(
            {**provenance(options.program), "device": bench["device"],
             "tokens": options.tokens, "dtype": options.dtype, "rows": rows},
            indent=1) + "\n")
    return int(worst > options.within)


if __name__ == "__main__":
    sys.exit(main())
