#!/usr/bin/env python3
"""A GPT in plain PyTorch, dense against structured, in one script.

    export PYTHONPATH=python
    .venv/bin/python examples/pytorch/train_gpt.py --structure dense --steps 200
    .venv/bin/python examples/pytorch/train_gpt.py --structure monarch
    .venv/bin/python examples/pytorch/train_gpt.py --structure btt_moe:E=16,k=2
    .venv/bin/python examples/pytorch/train_gpt.py --structure monarch \\
      --width 1024 --layers 6 --batch 512 --compile --device cuda

Four lines differ from a dense script: the layer, the feed-forward network, the
parameter groups, and the router losses where there are mixtures. Reads any text
file as bytes.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import einforge

TEXT = pathlib.Path(__file__).resolve().parents[1] / "data/devil.txt"


def linear(d_in, d_out, structure, **options):
    if "_moe" in structure:
        return einforge.nn.MoeLinear(d_in, d_out, structure, **options)
    return einforge.nn.Linear(d_in, d_out, structure, **options)


class Block(nn.Module):
    def __init__(self, width, layers, head_width, structure):
        super().__init__()
        self.head_width = head_width
        self.scale = math.sqrt(3 / layers)
        self.norm1 = nn.LayerNorm(width)
        # No gain before a norm, which would undo it.
        self.q = linear(width, width, structure, gain=False)
        self.k = linear(width, width, structure, gain=False)
        self.v = linear(width, width, structure)
        self.out = linear(width, width, structure, zero=True)
        self.q_norm = nn.LayerNorm(head_width, bias=False)
        self.k_norm = nn.LayerNorm(head_width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = einforge.nn.Ffn(width, 4 * width, structure, zero=True)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (-1, self.head_width))
                   for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(
            self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2),
            v.transpose(1, 2), is_causal=True, scale=8 / self.head_width)
        x = x + self.scale * self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.scale * self.ffn(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, vocabulary, width, layers, context, head_width, structure):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(context, width))
        self.blocks = nn.Sequential(*[
            Block(width, layers, head_width, structure) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = linear(width, vocabulary, "dense", zero=True)

    def forward(self, tokens):
        h = self.token(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(h)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structure", default="monarch")
    parser.add_argument("--text", type=pathlib.Path, default=TEXT)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="write the result")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    text = torch.frombuffer(
        bytearray(options.text.read_bytes()), dtype=torch.uint8).to(device)
    model = Gpt(256, options.width, options.layers, options.context, 64,
                options.structure).to(device)
    optimizer = torch.optim.AdamW(
        einforge.nn.param_groups(model, lr=options.lr), betas=(0.9, 0.95),
        fused=True)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    forward = torch.compile(model) if options.compile else model
    window = torch.arange(options.context + 1, device=device)
    rates, losses, start = [], [], time.perf_counter()
    for step in range(options.steps):
        for group, rate in zip(optimizer.param_groups, base_rates):
            group["lr"] = rate * min(1, (step + 1) / 20)  # warm-up
        places = torch.randint(
            len(text) - options.context, (options.batch, 1), device=device)
        batch = text[places + window].long()
        with torch.autocast(
                device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = forward(batch[:, :-1])
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten())
        total = loss + einforge.nn.aux_loss(model)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if step % 20 == 19:  # float() waits for the device
            loss, now = float(losses[-1]), time.perf_counter()
            rates.append(20 * options.batch * options.context / (now - start))
            print(f"step {step + 1:5d}  loss {loss:.4f}  "
                  f"{rates[-1]:,.0f} tokens per second", flush=True)
            start = time.perf_counter()
    result = {
        "command": " ".join(sys.argv), "seed": 0,
        "hardware": (torch.cuda.get_device_name() if device.type == "cuda"
                     else "CPU"),
        "versions": {"torch": torch.__version__,
                     "einforge": einforge.__version__},
        "structure": options.structure,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": float(torch.stack(losses[-20:]).mean()),
        # Without the first 20 steps, which compile and measure kernels.
        "tokens_per_second": (
            statistics.median(rates[1:]) if rates[1:] else None),
    }
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
