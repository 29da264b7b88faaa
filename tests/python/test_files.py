"""What the program writes, read in Python and by transformers.

Run by ctest; by hand: EINFORGE_PROGRAM=.../einforge
EINFORGE_LIBRARY=.../libeinforge_python.so python test_files.py
"""

import array
import importlib.util
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
PROGRAM = os.environ.get(
    "EINFORGE_PROGRAM", str(ROOT / "build/release/bin/einforge"))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import einforge  # noqa: E402
from einforge import nn  # noqa: E402

HAVE_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
HAVE_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None

# Each has layers that no other has.
RUNS = {
    "structured": [
        "model.structure.all=btt:0.25", "model.structure.k=kronecker",
        "model.structure.v=theta:0.25,0.5,0.25,0.5,0.25,0.25,0.25",
        "model.structure.head=low_rank:0.5"],
    "padded": [
        "model.width=22", "model.head_width=11", "model.bias=false",
        "model.structure.all=monarch:pad"],
    "mixtures": [
        "model.structure.all=btt_moe:E=4,k=2",
        "model.structure.v=dense_moe:E=4,k=1",
        "model.moe.shared_expert=true", "model.moe.router.bias_rate=0.01"],
    "networks": [
        "model.structure.all=btt_moe:E=4,k=2",
        "model.structure.ffn_in=ffn_moe:E=4,k=2", "data.path=bytes",
        "model.structure.ffn_out=ffn_moe:E=4,k=2",
        "model.moe.shared_qkv_router=true", "model.moe.router.gates=all"],
}
if HAVE_TOKENIZERS:
    RUNS["own_tokenizer"] = ["data.path=own.json.data"]
CONTEXT = 16
PROMPT = "It was the "


def train_tokenizer(text, path):
    from tokenizers import (Tokenizer, decoders, models, pre_tokenizers,
                            processors, trainers)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "[CLS]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    # Neither is used in training.
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    bpe.enable_truncation(2)
    bpe.save(str(path))


def program(*words, **options):
    done = subprocess.run(
        [PROGRAM, *map(str, words)], text=True, capture_output=True, **options)
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


class Runs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        text = (ROOT / "examples/data/devil.txt").read_text()[:40000]
        (cls.root / "text.txt").write_text(text)
        kinds = {"chars96": "chars96", "bytes": "bytes"}
        if HAVE_TOKENIZERS:
            train_tokenizer(text, cls.root / "own.json")
            kinds["own.json"] = "own.json.data"
        for tokens, out in kinds.items():
            program("data", "prepare", "text.txt", "--tokens", tokens, "--out",
                    out, cwd=cls.root)
        (cls.root / "run.toml").write_text(f"""
            steps = 200
            device = "cpu"
            eval_every = 0
            [model]
            width = 32
            layers = 2
            head_width = 16
            context = {CONTEXT}
            [data]
            path = "chars96"
            batch_size = 8
            [optimizer]
            learning_rate = 1e-2
            base_width = 32
        """)
        for name, settings in RUNS.items():
            words = [word for s in settings for word in ("--set", s)]
            program("train", "run.toml", "--out", name, *words, cwd=cls.root)
        cls.greedy = {
            name: json.loads(program(
                "generate", cls.root / name, "--prompt", PROMPT, "--tokens", 24,
                "--temperature", 0, "--json"))["tokens"] for name in RUNS}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_loaded_model_writes_the_same_text(self):
        for name, want in self.greedy.items():
            model = einforge.load(self.root / name)
            tokens = model.encode(PROMPT)
            with torch.no_grad():
                for _ in want:
                    logits = model(torch.tensor([tokens[-CONTEXT:]]))[0, -1]
                    tokens.append(int(logits.argmax()))
            self.assertEqual(tokens[-len(want):], want, name)
            self.assertEqual(model.decode(model.encode(PROMPT)), PROMPT)
        # Not all are repetitions of one symbol.
        self.assertGreater(
            sum(len(set(tokens)) > 2 for tokens in self.greedy.values()), 1)

    def test_loss_is_what_the_program_evaluated(self):
        """On the program's windows of val.bin (data/dataset.h), one by one."""
        batches, size = 20, 8
        for name in RUNS:
            model = einforge.load(self.root / name)
            state = json.loads(
                (self.root / name / "checkpoints/step_00000200/state.json")
                .read_text())
            data = state["config"]["data"]["path"]
            tokens = array.array(
                "H", (self.root / data / "val.bin").read_bytes())
            places = len(tokens) - CONTEXT
            starts = [(k * 0x9e3779b97f4a7c15 % 2**64 * places) >> 64
                      for k in range(batches * size)]
            windows = torch.tensor(
                [list(tokens[at:at + CONTEXT + 1]) for at in starts])
            with torch.no_grad():
                logits = model(windows[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits.double().flatten(0, 1), windows[:, 1:].flatten())
            self.assertAlmostEqual(
                float(loss), state["val_loss"], delta=2e-6, msg=name)

    def test_loaded_model_trains_and_merges(self):
        for name in RUNS:
            model = einforge.load(self.root / name).train()
            groups = nn.param_groups(model, lr=1e-3)
            self.assertEqual(sum(len(g["params"]) for g in groups),
                             len(list(model.parameters())))
            optimizer = torch.optim.AdamW(groups)
            tokens = torch.randint(model.token_embedding.num_embeddings,
                                   (4, CONTEXT))
            losses = []
            for _ in range(8):
                loss = torch.nn.functional.cross_entropy(
                    model(tokens)[:, :-1].flatten(0, 1),
                    tokens[:, 1:].flatten()) + nn.aux_loss(model)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            self.assertLess(losses[-1], losses[0], name)
            self.assertEqual(len(nn.router_health(model)) > 0,
                             name in ("mixtures", "networks"))
            model.eval()
            want = model(tokens)
            torch.testing.assert_close(
                nn.merge_(model)(tokens), want, rtol=1e-3, atol=1e-3)

    @unittest.skipUnless(HAVE_TOKENIZERS, "needs tokenizers")
    def test_tokenizer_goes_with_the_run(self):
        copied = self.root / "elsewhere/run"
        shutil.copytree(self.root / "own_tokenizer", copied)
        data = self.root / "elsewhere/data"
        shutil.copytree(self.root / "own.json.data", data)
        train = ["train", "run.toml", "--out", copied, "--resume", "--set",
                 f"data.path={data}", "--set"]
        program(*train, "steps=202", cwd=self.root)
        (data / "tokenizer.json").write_text("{}")
        with self.assertRaisesRegex(AssertionError, "tokenizer of hash"):
            program(*train, "steps=204", cwd=self.root)
        shutil.rmtree(data)
        words = ["--prompt", PROMPT, "--tokens", 8, "--json"]
        made = json.loads(program("generate", copied, *words))
        self.assertEqual(made["step"], 202)
        model = einforge.load(copied)
        self.assertEqual(model.decode(made["tokens"]), made["text"])
        newest = copied / "checkpoints/step_00000202"
        (newest / "tokenizer.json").write_text("{}")
        with self.assertRaisesRegex(AssertionError, "tokenizer.json"):
            program("generate", newest, *words)

    def test_padding_changes_nothing(self):
        for name in ("structured", "networks"):
            model = einforge.load(self.root / name)
            text = torch.tensor([model.encode(PROMPT)])
            padding = torch.zeros(1, 3, dtype=torch.int64)
            mask = torch.ones_like(text)
            with torch.no_grad():
                want = model(text)
                left = model(torch.cat((padding, text), 1),
                             torch.cat((padding, mask), 1))[:, 3:]
                right = model(torch.cat((text, padding), 1),
                              torch.cat((mask, padding), 1))[:, :-3]
            torch.testing.assert_close(left, want, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(right, want, rtol=1e-4, atol=1e-5)

    def test_bad_folders_are_one_line(self):
        with self.assertRaisesRegex(ValueError, "chars96"):
            einforge.load(self.root / "chars96")
        cut = self.root / "cut/checkpoints/step_00000001"
        cut.mkdir(parents=True)
        source = self.root / "padded/checkpoints/step_00000200"
        (cut / "state.json").write_bytes((source / "state.json").read_bytes())
        (cut / "model.safetensors").write_bytes(
            (source / "model.safetensors").read_bytes()[:100])
        with self.assertRaisesRegex(ValueError, "whole checkpoint"):
            einforge.load(self.root / "cut")
        model = einforge.load(self.root / "padded")
        with self.assertRaisesRegex(ValueError, "16 tokens.*17"):
            model(torch.zeros(1, 17, dtype=torch.int64))

    @unittest.skipUnless(HAVE_TRANSFORMERS, "needs transformers")
    def test_transformers_writes_the_same_text_and_saves_again(self):
        import transformers
        from transformers import AutoModelForCausalLM, AutoTokenizer
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        for name, want in self.greedy.items():
            out = self.root / f"{name}_hf"
            program("export", self.root / name, "--to", "hf", out)
            self.assertEqual(
                [p for p in out.iterdir() if p.suffix in (".bin", ".pt")], [])
            again = self.root / f"{name}_again"
            for folder in (out, again):
                model = AutoModelForCausalLM.from_pretrained(
                    folder, trust_remote_code=True)
                tokenizer = AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=True)
                if folder == again:  # as where einforge is not installed
                    module = sys.modules[type(model.model).__module__]
                    module._operator = lambda *_: None
                ids = tokenizer(PROMPT, return_tensors="pt")
                got = model.generate(
                    **ids, max_new_tokens=len(want), do_sample=False,
                    pad_token_id=0)
                got = got[0, ids["input_ids"].shape[1]:].tolist()
                end = model.generation_config.eos_token_id
                stop = want.index(end) + 1 if end in want else len(want)
                self.assertEqual(got, want[:stop], name)
                self.assertEqual(end, tokenizer.eos_token_id, name)
                self.assertEqual(tokenizer.decode(ids["input_ids"][0]), PROMPT)
                model.save_pretrained(again)
                tokenizer.save_pretrained(again)

    def test_export_refuses_a_folder_with_files(self):
        with self.assertRaisesRegex(AssertionError, "new or empty"):
            program("export", self.root / "padded", "--to", "hf",
                    self.root / "padded")


def monarch(p, name):
    """The matrix of a capped layer, from its definition (docs/model.md)."""
    cores = []
    for core in "ab":
        m = p[f"{name}.core_{core}"].double()
        # A maps alpha to phi features, B gamma to epsilon.
        d_in, d_out = ((m.shape[0], m.shape[3]) if core == "a"
                       else (m.shape[1], m.shape[2]))
        cap = math.sqrt(min(d_in, d_out)) / d_in
        rms = float(m.square().mean().sqrt())
        cores.append(float(p[f"{name}.gain_{core}"]) * m / max(1, rms / cap))
    w = torch.einsum("bgefr,agdfr->defabg", cores[1], cores[0])
    return w.flatten(3).flatten(0, 2)


class Regression(unittest.TestCase):
    def test_models_of_the_regression_task(self):
        """Against the formulas, written out."""
        def gelu(x):
            return torch.nn.functional.gelu(x, approximate="tanh")

        def norm(x, p, name):
            return torch.nn.functional.layer_norm(
                x, x.shape[-1:], p[name + ".gain"].double(),
                p[name + ".bias"].double())

        def layer(x, p, name):
            weight = p.get(name + ".weight")
            weight = monarch(p, name) if weight is None else weight.double()
            return x @ weight.T + p[name + ".bias"].double()

        for kind in ("mlp", "residual_mlp"):
            with tempfile.TemporaryDirectory() as folder:
                program("train", "-", "--out", folder, input=(
                    f'steps = 20\ndevice = "cpu"\neval_every = 0\n'
                    f'[model]\nkind = "{kind}"\nwidth = 36\nlayers = 2\n'
                    f'structure.all = "monarch"\n[data]\nbatch_size = 32\n'
                    f'[optimizer]\nlearning_rate = 1e-2\n'))
                model = einforge.load(folder)
                p = load_file(
                    f"{folder}/checkpoints/step_00000020/model.safetensors")
            x = torch.randn(5, p["input.weight"].shape[1])
            h = layer(x.double(), p, "input")
            if kind == "mlp":
                h = h.relu()
                for i in range(2):
                    h = layer(h, p, f"hidden_{i}").relu()
            else:
                h = norm(gelu(h), p, "norm")
                for i in range(2):
                    b = f"blocks_{i}."
                    hidden = layer(norm(h, p, b + "norm"), p, b + "ffn_in")
                    h = h + layer(gelu(hidden), p, b + "ffn_out")
            want = layer(h, p, "head")
            self.assertGreater(float(want.abs().max()), 0.01)
            torch.testing.assert_close(
                model(x).detach().double(), want, rtol=1e-4, atol=1e-5)


class Convert(unittest.TestCase):
    def test_program_agrees_with_python(self):
        torch.manual_seed(0)
        for structure, dtype in (("btt:0.25", torch.float32),
                                 ("monarch:pad", torch.float32),
                                 ("low_rank:0.5", torch.bfloat16)):
            model = torch.nn.Sequential()
            width, wide = (62, 93) if "pad" in structure else (60, 96)
            model.add_module("embed", torch.nn.Embedding(10, width))
            model.add_module("up", torch.nn.Linear(width, wide))
            model.add_module("norm", torch.nn.LayerNorm(wide))
            model.add_module("down", torch.nn.Linear(wide, width, bias=False))
            model.to(dtype)
            with tempfile.TemporaryDirectory() as folder:
                source, out = f"{folder}/in.safetensors", f"{folder}/out"
                save_file(model.state_dict(), source)
                rows = json.loads(program(
                    "convert", source, "--structure", structure, "--out", out,
                    "--tokens", 8, "--json"))["layers"]
                tensors = load_file(out)
            report = einforge.convert_(
                model, {"*": structure}, measure=False)
            self.assertEqual([row["name"] for row in rows], ["up", "down"]
                             if rows[0]["name"] == "up" else ["down", "up"])
            mine = {row.name: row for row in report}
            for row in rows:
                want = mine[row["name"]]
                for key in ("d_in", "d_out", "structure", "skipped"):
                    self.assertEqual(row[key], getattr(want, key))
                for key in ("parameters", "flops", "sizes"):
                    self.assertEqual(
                        tuple(row[key]), getattr(want, key), key)
                self.assertAlmostEqual(
                    row["relative_error"], want.relative_error, places=9)
                self.assertEqual(len(row["ms"]), 2)
            merged = [model.up.double().merged(), model.down.double().merged()]
            model.to(dtype).load_state_dict(tensors)  # every name and shape
            bound = 1e-5 if dtype is torch.float32 else 1e-2
            for layer, want in zip((model.up, model.down), merged):
                gap = layer.double().merged() - want
                self.assertLess(float(gap.norm() / want.norm()), bound)

    def test_bad_input_is_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            source = f"{folder}/in.safetensors"
            save_file({"a.weight": torch.full((8, 8), float("nan")),
                       "b.weight": torch.randn(7, 11),
                       "wte.weight": torch.randn(8, 8)}, source)
            out = f"{folder}/out.safetensors"
            rows = json.loads(program(
                "convert", source, "--structure", "monarch", "--out", out,
                "--json"))["layers"]
            self.assertEqual(len(rows), 2)
            self.assertIn("finite", rows[0]["skipped"])
            self.assertIn("11", rows[1]["skipped"])
            self.assertEqual(set(load_file(out)), set(load_file(source)))
            for words, message in (
                    (("--structure", "monrach"), "monarch"),
                    (("--structure", "dense"), "two cores"),
                    (("--structure", "monarch", "--layers", "lm"), "--layers")):
                with self.assertRaisesRegex(AssertionError, message) as caught:
                    program("convert", source, "--out", out, *words)
                self.assertEqual(str(caught.exception).count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
