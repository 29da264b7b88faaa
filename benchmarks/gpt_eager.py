#!/usr/bin/env python3
"""Tokens per second of the demo's GPT in plain PyTorch eager, as JSON.

The same model as `einforge train` with model.width 256 and 3 layers: qk
LayerNorm, logits scaled by 8 / d_head, depth multiplier sqrt(3 / layers),
float32, AdamW, gradient clipping at 1. Linear layers are dense, or Monarch as
two batched matmuls with RMS-capped cores. Nothing of einforge is used: this is
what it is compared with.

    .venv/bin/python benchmarks/gpt_eager.py --steps 20
    .venv/bin/python benchmarks/gpt_eager.py --device cuda --width 1024 \\
        --layers 6 --batch 512

On a GPU the layers run in bfloat16 by autocast, and a step is timed without
waiting for the one before, as the mean of ten.
"""

import argparse
import json
import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class Dense(nn.Module):
    def __init__(self, d_in, d_out, zero=False, gain=True):
        super().__init__()
        del gain  # only capped cores have one
        std = 0 if zero else math.sqrt(min(d_in, d_out)) / d_in
        self.weight = nn.Parameter(torch.randn(d_out, d_in) * std)
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def squarest(n):
    return max(f for f in range(1, math.isqrt(n) + 1) if n % f == 0)


class Monarch(nn.Module):
    """x (a, g) -> z (f, g) -> y (e, f): two batched matmuls."""

    def __init__(self, d_in, d_out, zero=False, gain=True):
        super().__init__()
        self.a = squarest(d_in)
        self.g = d_in // self.a
        self.e = squarest(d_out)
        self.f = d_out // self.e
        self.std = (math.sqrt(min(self.a, self.f)) / self.a,
                    math.sqrt(min(self.g, self.e)) / self.g)
        self.first = nn.Parameter(
            torch.randn(self.g, self.a, self.f) * self.std[0])
        self.second = nn.Parameter(
            torch.randn(self.f, self.g, self.e) * (0 if zero else self.std[1]))
        self.gains = nn.ParameterList(
            [nn.Parameter(torch.ones(())) for _ in range(2)] if gain else [])
        self.bias = nn.Parameter(torch.zeros(d_out))

    def core(self, i, core):
        rms = core.square().mean().sqrt()
        core = core / torch.clamp_min(rms / self.std[i], 1.0)
        return core * self.gains[i] if len(self.gains) else core

    def forward(self, x):
        shape = x.shape[:-1]
        x = x.reshape(-1, self.a, self.g).permute(2, 0, 1)  # (g, t, a)
        z = torch.bmm(x, self.core(0, self.first))  # (g, t, f)
        y = torch.bmm(z.permute(2, 1, 0), self.core(1, self.second))  # (f, t, e)
        return y.permute(1, 2, 0).reshape(*shape, -1) + self.bias


STRUCTURES = {"dense": Dense, "monarch": Monarch}


class Block(nn.Module):
    def __init__(self, linear, width, layers, head_width):
        super().__init__()
        self.head_width = head_width
        self.multiplier = math.sqrt(3 / layers)
        self.norm1 = nn.LayerNorm(width)
        self.q = linear(width, width, gain=False)
        self.k = linear(width, width, gain=False)
        self.v = linear(width, width)
        self.out = linear(width, width, zero=True)
        self.q_norm = nn.LayerNorm(head_width, bias=False)
        self.k_norm = nn.LayerNorm(head_width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.ffn_in = linear(width, 4 * width)
        self.ffn_out = linear(4 * width, width, zero=True)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (
            layer(h).unflatten(-1, (-1, self.head_width)) for layer in
            (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(
            self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2),
            v.transpose(1, 2), is_causal=True, scale=8 / self.head_width)
        x = x + self.multiplier * self.out(mixed.transpose(1, 2).flatten(-2))
        h = F.gelu(self.ffn_in(self.norm2(x)), approximate="tanh")
        return x + self.multiplier * self.ffn_out(h)


class Gpt(nn.Module):
    def __init__(self, linear, width, layers, context, vocabulary, head_width):
        super().__init__()
        self.token = nn.Parameter(torch.randn(vocabulary, width) * 0.02)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.Sequential(
            *[Block(linear, width, layers, head_width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = Dense(width, vocabulary, zero=True)

    def forward(self, tokens):
        h = F.embedding(tokens, self.token) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(h)))


def make_step(structure, options):
    torch.manual_seed(0)
    cuda = options.device == "cuda"
    model = Gpt(
        STRUCTURES[structure], options.width,
        options.layers, options.context, options.vocabulary,
        64).to(options.device)

    def loss_of(batch):
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            logits = model(batch[:, :-1])
        return F.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten())

    # The loss too: its passes over the logits become one.
    forward = torch.compile(loss_of) if options.compile else loss_of
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0,
        fused=True)
    data = torch.randint(
        options.vocabulary, (8, options.batch, options.context + 1)).to(
            options.device)

    def step(i):
        loss = forward(data[i % len(data)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    def steps(i):
        for _ in range(10 if cuda else 1):
            loss = step(i)
        return loss.item()  # waits

    return steps, sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", default="dense,monarch")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true",
                        help="by torch.compile")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    names = options.structures.split(",")
    for name in names:
        if name not in STRUCTURES:
            parser.error(f"expected structures of {', '.join(STRUCTURES)}; "
                         f"got '{name}'")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU that CUDA sees; found none")
    models = {name: make_step(name, options) for name in names}
    seconds = {name: [] for name in names}
    # Models take turns, so that a busy machine hurts all alike.
    for i in range(-2, options.steps):
        for name in names:
            start = time.perf_counter()
            models[name][0](i)
            if i >= 0:
                seconds[name].append(time.perf_counter() - start)
    tokens = options.batch * options.context
    if options.device == "cuda":
        tokens *= 10
    print(json.dumps({
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "tokens_per_step": options.batch * options.context,
        "peak_memory_bytes": torch.cuda.max_memory_allocated()
                             if options.device == "cuda" else None,
        "rows": [
            {
                "structure": name,
                "parameters": models[name][1],
                "median_tokens_per_s": tokens / statistics.median(seconds[name]),
                "best_tokens_per_s": tokens / min(seconds[name]),
            }
            for name in names
        ],
    }, indent=2))


if __name__ == "__main__":
    main()
