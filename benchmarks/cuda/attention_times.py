#!/usr/bin/env python3
"""Milliseconds of causal attention in bfloat16 by each of torch's backends,
heads of 64 features, and whether gradients repeat bitwise, as JSON.

    .venv/bin/python benchmarks/cuda/attention_times.py --json times.json
"""

import argparse
import json
import pathlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SIZES = [(512, 128, 16), (512, 128, 8), (256, 256, 12), (64, 1024, 12)]
BACKENDS = ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"]


def milliseconds(run, times=10):
    for _ in range(2):
        run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / times


def heads_first(batch, time, heads):
    """As a model's tokens lie."""
    return torch.randn(batch, time, heads, 64, device="cuda",
                       dtype=torch.bfloat16).transpose(1, 2)


def measure(size, backend):
    """None where the backend does not take it."""
    qkv = [heads_first(*size).requires_grad_() for _ in range(3)]
    dy = heads_first(*size)

    def forward():
        return scaled_dot_product_attention(*qkv, is_causal=True)

    try:
        with sdpa_kernel([getattr(SDPBackend, backend)]):
            y = forward()
            forward_ms = milliseconds(forward)
    except RuntimeError:
        return None

    def backward():
        return torch.autograd.grad(y, qkv, dy, retain_graph=True)

    first = backward()
    repeats = all(torch.equal(a, b) for _ in range(5)
                  for a, b in zip(first, backward()))
    return {"forward_ms": forward_ms, "backward_ms": milliseconds(backward),
            "repeats": repeats}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=pathlib.Path, help="a file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("expected a GPU that CUDA sees; found none")
    rows = []
    for size in SIZES:
        for backend in BACKENDS:
            for deterministic in (False, True):
                torch.use_deterministic_algorithms(deterministic)
                found = measure(size, backend)
                if found is None:
                    continue
                batch, time, heads = size
                rows.append({"batch": batch, "time": time, "heads": heads,
                             "backend": backend,
                             "deterministic": deterministic, **found})
                print(f"{batch:4} x {time:4}, {heads:2} heads {backend:20}",
                      "deterministic" if deterministic else " " * 13,
                      f"{found['forward_ms']:.3f} {found['backward_ms']:.3f}",
                      "repeats" if found["repeats"] else "", flush=True)
    text = json.dumps({
        "command": "python benchmarks/cuda/attention_times.py",
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "rows": rows}, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
