#!/usr/bin/env python3
"""A converted Hugging Face model in transformers' Trainer, saved and loaded.

    .venv/bin/pip install transformers accelerate
    export PYTHONPATH=python
    .venv/bin/python examples/pytorch/hf_trainer.py
    .venv/bin/python examples/pytorch/hf_trainer.py --structure btt_moe:E=4,k=2
    .venv/bin/python examples/pytorch/hf_trainer.py --model FOLDER \\
      --patterns "*.mlp.*"

Without --model a small Llama is trained on the bytes of a text first. Its MLPs
are then converted, with calibration, and trained on; the optimiser has
einforge's parameter groups. What is saved is read by from_pretrained.
"""

import argparse
import json
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

import einforge  # noqa: E402
import einforge.hf  # noqa: E402  (lets from_pretrained know our layers)

TEXT = pathlib.Path(__file__).resolve().parents[1] / "data/devil.txt"


class Windows(torch.utils.data.Dataset):
    """Windows of a text, as Trainer wants them."""

    def __init__(self, tokens, length):
        self.windows = tokens[:len(tokens) // length * length].view(-1, length)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        return {"input_ids": self.windows[i], "labels": self.windows[i]}


class Trainer(transformers.Trainer):
    """Adds the losses of routers, where there are mixtures."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            loss = loss + einforge.nn.aux_loss(model).to(loss.device)
        return (loss, outputs) if return_outputs else loss


def trainer_of(model, data, options, steps, folder):
    train, validation = data
    return Trainer(
        model=model,
        args=transformers.TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=options.batch, save_strategy="no",
            logging_steps=max(1, steps // 4), report_to=[], seed=0,
            use_cpu=not torch.cuda.is_available(), disable_tqdm=True),
        train_dataset=train, eval_dataset=validation,
        optimizers=(torch.optim.AdamW(einforge.nn.param_groups(
            model, lr=options.lr, base_width=options.base_width)), None))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a folder of a causal language model")
    parser.add_argument("--text", type=pathlib.Path, default=TEXT)
    parser.add_argument("--patterns", nargs="+", default=["*.mlp.*"])
    parser.add_argument("--structure", default="btt:0.25")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--base-width", type=int, default=128,
                        help="the width that --lr is for")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    transformers.set_seed(0)
    if options.model:
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        tokens = tokenizer(
            options.text.read_text(), return_tensors="pt")["input_ids"][0]
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model)
    else:
        tokens = torch.frombuffer(
            bytearray(options.text.read_bytes()), dtype=torch.uint8).long()
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=256, hidden_size=128, intermediate_size=512,
            num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64))
    cut = len(tokens) - 64 * 64
    data = Windows(tokens[:cut], 64), Windows(tokens[cut:], 64)
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(options.out or pathlib.Path(scratch) / "model")
        trainer = trainer_of(model, data, options, options.steps, scratch)
        if not options.model:
            trainer.train()
        losses = {"dense": trainer.evaluate()["eval_loss"]}
        batch = torch.stack([data[0][i]["input_ids"] for i in range(64)])
        report = einforge.convert_(
            model, {p: options.structure for p in options.patterns},
            calibration=lambda m: m(input_ids=batch.to(m.device)),
            iterations=5, tokens=512)
        print(report)
        # A new one: the optimiser is of the new parameters.
        trainer = trainer_of(model, data, options, options.steps, scratch)
        losses["converted"] = trainer.evaluate()["eval_loss"]
        trainer.train()
        losses["trained"] = trainer.evaluate()["eval_loss"]
        trainer.save_model(folder)
        again = transformers.AutoModelForCausalLM.from_pretrained(folder)
        losses["loaded"] = trainer_of(
            again, data, options, options.steps, scratch).evaluate()["eval_loss"]
    print(json.dumps({
        "structure": options.structure, **losses,
        "parameters": [sum(row.parameters[i] for row in report)
                       for i in (0, 1)]}))


if __name__ == "__main__":
    main()
