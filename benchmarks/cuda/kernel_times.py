"""Says which kernels a layer's backward pass runs and what each takes.

  .venv/bin/python benchmarks/cuda/kernel_times.py \\
    --library build/release/lib/libeinforge_ops.so

Mean microseconds of five passes with a cold L2, by torch's profiler.
"""

import argparse

import torch

from layer_times import LAYERS


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--tokens", type=int, default=32768)
    args = parser.parse_args()
    torch.ops.load_library(args.library)
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def random(*sizes):
        return torch.randn(sizes, device="cuda").bfloat16()

    for name, (a, g, e, f, r) in LAYERS.items():
        x = random(args.tokens, a * g)
        dy = random(args.tokens, e * f)
        core_a = random(g, a, 1, f, r).permute(1, 0, 2, 3, 4)
        core_b = random(f, 1, g, r, e).permute(1, 2, 4, 0, 3)

        def backward():
            torch.ops.einforge.einsum_linear_backward(
                dy, x, core_a, core_b, [True, True, True, False]
            )

        backward()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA]
        ) as profile:
            for _ in range(5):
                flush.zero_()
                backward()
            torch.cuda.synchronize()
        print(name)
        for event in profile.key_averages():
            if "btt" in event.key or "Gemm" in event.key or "gemm" in event.key:
                total = event.device_time_total
                print(f"  {total / 5:8.1f} us  {event.count // 5} x {event.key[:110]}")


if __name__ == "__main__":
    main()
