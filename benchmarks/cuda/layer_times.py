"""Times the operator's kernels beside dense, through Python's torch.

  .venv/bin/python benchmarks/cuda/layer_times.py \\
    --library build/release/lib/libeinforge_ops.so

Median ms of a cold L2 with rotating inputs, as `einforge bench` takes them;
forward, and forward + backward of x and both cores.
"""

import argparse
import json
import os
import statistics

import torch

LAYERS = {  # alpha, gamma | epsilon, phi | rho
    "4096": (64, 64, 64, 64, 1),
    "2048": (64, 32, 64, 32, 1),
    "1024": (32, 32, 32, 32, 1),
    "1024 -> 4096": (32, 32, 64, 64, 1),
    "4096 -> 1024": (64, 64, 32, 32, 1),
    "4096 rho 4": (64, 64, 64, 64, 4),
    "1024 rho 4": (32, 32, 32, 32, 4),
}


def median_ms(run, sets, flush, repeats):
    for i in range(3):
        run(sets[i % len(sets)])
    times = []
    for i in range(repeats):
        flush.zero_()
        start = torch.cuda.Event(enable_timing=True)
        stop = torch.cuda.Event(enable_timing=True)
        start.record()
        run(sets[i % len(sets)])
        stop.record()
        times.append((start, stop))
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.ops.load_library(args.library)
    linear = torch.ops.einforge.einsum_linear
    backward = torch.ops.einforge.einsum_linear_backward
    device = "cuda"
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)

    def random(*sizes, scale=1.0):
        return torch.randn(sizes, device=device).mul_(scale).bfloat16()

    rows = []
    print(f"{torch.cuda.get_device_name()}, {args.tokens} tokens, bfloat16, ms")
    print(
        f"{'layer':14} {'dense':>7} {'ours':>7} {'ratio':>6} | "
        f"{'dense f+b':>9} {'ours':>7} {'ratio':>6} | dx    dA    dB    all"
    )
    for name, (a, g, e, f, r) in LAYERS.items():
        if args.only not in name:
            continue
        d_in, d_out = a * g, e * f
        sets = []
        for _ in range(2):
            core_a = random(g, a, 1, f, r, scale=a**-0.5).permute(1, 0, 2, 3, 4)
            core_b = random(f, 1, g, r, e, scale=(g * r) ** -0.5).permute(
                1, 2, 4, 0, 3
            )
            sets.append(
                {
                    "x": random(args.tokens, d_in),
                    "dy": random(args.tokens, d_out),
                    "a": core_a,
                    "b": core_b,
                    "w": random(d_out, d_in, scale=d_in**-0.5),
                }
            )

        def grads(mask):
            return lambda s: backward(s["dy"], s["x"], s["a"], s["b"], mask)

        def dense_backward(s):
            s["dy"] @ s["w"]
            s["dy"].t() @ s["x"]

        all_grads = grads([True, True, True, False])

        def both(s):
            linear(s["x"], s["a"], s["b"])
            all_grads(s)

        def dense_both(s):
            s["x"] @ s["w"].t()
            dense_backward(s)

        def time(run):
            return median_ms(run, sets, flush, args.repeats)

        row = {
            "layer": name,
            "dense_forward": time(lambda s: s["x"] @ s["w"].t()),
            "forward": time(lambda s: linear(s["x"], s["a"], s["b"])),
            "dense_forward_backward": time(dense_both),
            "forward_backward": time(both),
            "dx": time(grads([True, False, False, False])),
            "da": time(grads([False, True, False, False])),
            "db": time(grads([False, False, True, False])),
            "backward": time(all_grads),
        }
        rows.append(row)
        print(
            f"{name:14} {row['dense_forward']:7.3f} {row['forward']:7.3f} "
            f"{row['dense_forward'] / row['forward']:6.2f} | "
            f"{row['dense_forward_backward']:9.3f} "
            f"{row['forward_backward']:7.3f} "
            f"{row['dense_forward_backward'] / row['forward_backward']:6.2f} | "
            f"{row['dx']:.3f} {row['da']:.3f} {row['db']:.3f} "
            f"{row['backward']:.3f}",
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"device": torch.cuda.get_device_name(), "rows": rows}, file, indent=1
            )
    if os.environ.get("PROFILE"):
        with torch.profiler.profile() as profile:
            both(sets[0])
            torch.cuda.synchronize()
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=12))


if __name__ == "__main__":
    main()
