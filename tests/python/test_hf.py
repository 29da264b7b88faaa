"""Converted models of transformers: saved and loaded.

Skips where transformers is not installed. Run by ctest; by hand:
EINFORGE_LIBRARY=.../libeinforge_python.so python test_hf.py
"""

import importlib.util
import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

import einforge  # noqa: E402
from einforge import nn  # noqa: E402

HAVE_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
if HAVE_TRANSFORMERS:
    import transformers

    import einforge.hf  # noqa: E402
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@unittest.skipUnless(HAVE_TRANSFORMERS, "needs transformers")
class Saved(unittest.TestCase):
    def models(self):
        torch.manual_seed(0)
        tokens = torch.randint(50, (2, 7))
        yield transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=2)), "*.mlp.*", tokens
        # Its layers are Conv1D, and its head is tied.
        yield transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16)), (
                "*.mlp.c_*"), tokens

    def test_loads_as_it_was_saved(self):
        for structure in ("btt:0.25", "btt_moe:E=3,k=2"):
            for model, pattern, tokens in self.models():
                model.eval()
                report = einforge.convert_(
                    model, {pattern: structure}, measure=False,
                    calibration=lambda m: m(input_ids=tokens))
                self.assertEqual({row.skipped for row in report}, {""})
                want = model(input_ids=tokens).logits
                with tempfile.TemporaryDirectory() as folder:
                    model.save_pretrained(folder)
                    names = {p.suffix for p in pathlib.Path(folder).iterdir()}
                    self.assertEqual(names, {".json", ".safetensors"})
                    again = type(model).from_pretrained(folder)
                    torch.testing.assert_close(
                        again(input_ids=tokens).logits, want)
                    again.save_pretrained(folder)
                    third = transformers.AutoModelForCausalLM.from_pretrained(
                        folder, dtype=torch.bfloat16)
                self.assertEqual(
                    sum(isinstance(m, (nn.Linear, nn.MoeLinear))
                        for m in third.modules()), len(report))
                half = third(input_ids=tokens).logits.float()
                if "_moe" in structure:  # a token may take another expert
                    self.assertEqual(
                        {r.weight.dtype for _, r in nn.routers(third)},
                        {torch.float32})
                    self.assertTrue(half.isfinite().all())
                else:
                    torch.testing.assert_close(half, want, rtol=0.1, atol=0.05)

    def test_converts_dense_weights_as_they_load(self):
        for model, pattern, tokens in self.models():
            model.eval()
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                loaded = type(model).from_pretrained(
                    folder, quantization_config=einforge.hf.Structures(
                        {pattern: "btt:0.25"}))
                einforge.convert_(model, {pattern: "btt:0.25"}, measure=False)
                want = model(input_ids=tokens).logits
                torch.testing.assert_close(
                    loaded(input_ids=tokens).logits, want, rtol=1e-4,
                    atol=1e-5)
                loaded.save_pretrained(folder)
                again = type(model).from_pretrained(folder)
            torch.testing.assert_close(
                again(input_ids=tokens).logits, want, rtol=1e-4, atol=1e-5)

    def test_files_of_routers_by_their_old_name(self):
        from safetensors.torch import load_file, save_file
        model, pattern, tokens = next(self.models())
        model.eval()
        einforge.convert_(
            model, {pattern: "btt_moe:E=3,k=2"}, measure=False,
            calibration=lambda m: m(input_ids=tokens))
        want = model(input_ids=tokens).logits
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            path = f"{folder}/model.safetensors"
            tensors = load_file(path)
            save_file({name.replace("router.weight", "router"): tensor
                       for name, tensor in tensors.items()}, path,
                      metadata={"format": "pt"})
            again = type(model).from_pretrained(folder)
            again.save_pretrained(folder)
            self.assertEqual(load_file(path).keys(), tensors.keys())
        torch.testing.assert_close(again(input_ids=tokens).logits, want)

    def test_loads_under_another_head(self):
        for model, pattern, tokens in self.models():
            model.eval()
            einforge.convert_(model, {pattern: "btt:0.25"}, measure=False)
            want = model.base_model(input_ids=tokens).last_hidden_state
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                base = transformers.AutoModel.from_pretrained(folder)
                torch.testing.assert_close(
                    base(input_ids=tokens).last_hidden_state, want)
                base.save_pretrained(folder)
                again = type(model).from_pretrained(folder)
            torch.testing.assert_close(
                again.base_model(input_ids=tokens).last_hidden_state, want)

    @unittest.skipUnless(
        importlib.util.find_spec("accelerate"), "needs accelerate")
    def test_trainer(self):
        class Windows(torch.utils.data.Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, i):
                window = torch.arange(i, i + 12) % 7
                return {"input_ids": window, "labels": window}

        class Trainer(transformers.Trainer):
            def compute_loss(self, model, inputs, **_):
                return model(**inputs).loss + nn.aux_loss(model)

        model = next(self.models())[0]
        einforge.convert_(
            model, {"*.mlp.up_proj": "btt:0.25",
                    "*.mlp.down_proj": "btt_moe:E=3,k=2"},
            init="random", measure=False)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model, train_dataset=Windows(),
                args=transformers.TrainingArguments(
                    folder, max_steps=30, per_device_train_batch_size=8,
                    logging_steps=1, save_steps=30, report_to=[],
                    use_cpu=True, disable_tqdm=True),
                optimizers=(torch.optim.AdamW(nn.param_groups(
                    model, lr=3e-3, base_width=32)), None))
            trainer.train()
            losses = [row["loss"] for row in trainer.state.log_history
                      if "loss" in row]
            self.assertLess(losses[-1], 0.7 * losses[0])
            again = type(model).from_pretrained(f"{folder}/checkpoint-30")
        tokens = torch.arange(12).view(1, -1) % 7
        torch.testing.assert_close(
            again(input_ids=tokens).logits,
            model.eval()(input_ids=tokens).logits)


if __name__ == "__main__":
    unittest.main()
