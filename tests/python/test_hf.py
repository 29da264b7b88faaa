"""Converted models of transformers: saved and loaded.

Skips where transformers is not installed. Run by ctest; by hand:
EINFORGE_LIBRARY=.../libeinforge_ops.so python test_hf.py
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
                        {m.router.dtype for _, m in nn.mixtures(third)},
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


if __name__ == "__main__":
    unittest.main()
