#!/usr/bin/env python3
"""Runs what the documentation tells a reader to type, on a CPU.

    scripts/check_docs.py [BUILD] [--list] [PAGE...]

Every sh, python and toml block of README.md, CONTRIBUTING.md, docs/*.md and
python/README.md, and every example in the help of a command, in the order of
the page, in a scratch folder that looks like the repository. Training and
searches are made short by settings that a wrapper of the program adds. And
whether docs/api.md is what the docstrings say.

Comments in a page, right before a block, say more:

    <!-- not run: WHY -->      the block needs a GPU, a terminal, hours, ...
    <!-- setup                 shell or Python that readers have their own of
    CODE
    -->
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds a block

# What makes a command short; comes last, so that it overrides.
SHORT = """\
#!/usr/bin/env bash
program={program}
case "${{1:-}}" in
  train)
    short=(--set eval_batches=1 --set model.layers=1 --set checkpoint_every=0)
    [[ " $* " == *" --profile"* ]] || short+=(--set steps=4 --set eval_every=2)
    exec "$program" "$@" "${{short[@]}}" ;;
  search)
    exec "$program" "$@" --set budget.tokens=2000 --set budget.flops=0 \\
      --set 'widths=[32,64]' \\
      --set 'structures=["dense","monarch"]' --set curve_points=3 \\
      --set bootstrap=20 --set train.eval_batches=1 ;;
  check)
    exec "$program" "$@" --widths 32,64 --steps 1 --seeds 1 --device cpu \
      --set model.head_width=16 --set model.layers=1 ;;
  bench)
    exec "$program" "$@" --repeats 1 --tokens 16 ;;
  generate)
    exec "$program" "$@" --tokens 8 ;;
esac
exec "$program" "$@"
"""


def shard(count):
    """A shard of llm.c with documents of 99 tokens of GPT-2's."""
    header = struct.pack("<256i", 20240520, 1, count, *[0] * 253)
    return header + tokens(count)


def tokens(count):
    return struct.pack(f"<{count}H", *(
        50256 if i % 100 == 99 else i * 7919 % 50000 for i in range(count)))


def byte_tokenizer():
    """A tokenizer.json of bytes, by the characters that GPT-2 has for them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = [chr(b) for b in plain] + [chr(256 + i) for i in range(68)]
    level = {"type": "ByteLevel", "add_prefix_space": False,
             "trim_offsets": True, "use_regex": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "normalizer": None, "pre_tokenizer": level, "post_processor": None,
        "decoder": level,
        "added_tokens": [{
            "id": 256, "content": "<|endoftext|>", "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
            "special": True}],
        "model": {"type": "BPE", "merges": [], "vocab": {
            name: i for i, name in enumerate([*names, "<|endoftext|>"])}}})


# Files that the pages call the reader's own.
OWN = {
    "tokenizer.json": byte_tokenizer(),
    "train.bin": tokens(50_000),
    "fineweb/fineweb_train_000001.bin": shard(20_000),
    "fineweb/fineweb_train_000002.bin": shard(20_000),
    "fineweb/fineweb_val_000000.bin": shard(5_000),
    "my.toml": 'model.kind = "mlp"\nmodel.width = 32\ndata.batch_size = 16\n'
               "steps = 40\n",
    "search.toml": 'widths = [16]\nbudget.tokens = 2000\n'
                   'train.model.kind = "mlp"\ntrain.data.batch_size = 16\n',
    "book.txt": "A page.\n\n" * 50,
    "notes/a.txt": "".join(f"Note {i} says {i * i}.\n\n" for i in range(50)),
    "mine.csv": "structure,run,compute,loss,seconds\n" + "".join(
        f"{s},{s}{size},{size * step * 1e9},{2 + (size * step) ** -0.3 + bad},"
        f"{size * step}\n"
        for s, bad in (("gpt2", 0), ("mamba", 0.01))
        for size in (1, 2, 4) for step in (1, 2, 4, 8, 16, 32)),
}

BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>sh|python|toml)\n(?P<text>.*?)^ *```$",
    re.M | re.S)
COMMENT = re.compile(r"<!-- (not run:|setup\n)((?:(?!-->).)*)-->\s*\Z", re.S)


class Block:
    def __init__(self, page, line, kind, text, setup="", reason=""):
        self.name = f"{page}:{line}"
        self.page, self.kind, self.text = page, kind, text
        self.setup, self.reason = setup, reason


def blocks_of(page):
    text = (ROOT / page).read_text()
    for match in BLOCK.finditer(text):
        before = text[:match.start()]
        code = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
        block = Block(page, before.count("\n") + 1, match["kind"], code)
        if comment := COMMENT.search(before):
            if comment[1] == "setup\n":
                block.setup = comment[2]
            else:
                block.reason = comment[2].strip()
        yield block


def examples_of(program):
    """The examples in the help of each command."""
    def help_of(words):
        return subprocess.run([program, "help", *words], text=True, check=True,
                              stdout=subprocess.PIPE).stdout

    def commands_in(text):
        part = text.partition("\nCommands:\n")[2].partition("\nOptions:")[0]
        return re.findall(r"^  (\w+)", part, re.M)

    def walk(words):
        text = help_of(words)
        for command in commands_in(text):
            yield from walk([*words, command])
        examples = text.partition("\nExample")[2].partition("\n")[2]
        commands = re.findall(r"^  ((?:.*\\\n)*.+)$", examples, re.M)
        for number, command in enumerate(commands, 1):
            if "einforge " in command and not command.startswith("-"):
                # The words after two spaces say what it does.
                yield Block(f"help {' '.join(words)}", number, "sh",
                            re.sub(r"(\S)  +[a-z].*$", r"\1", command))

    yield from walk([])


# Commands that are left out wherever they are.
LEFT_OUT = {
    "make demo": "CI runs it as it is",
    "make test": "CI runs it as it is",
    "cmake": "scripts/check_install.sh runs it",
    "cuda": "needs a GPU",
    "benchmarks/quality.py": "takes hours on a GPU",
    "tensorboard --logdir": "does not end",
    "man -l": "does not end",
    "big.txt.xz": "the reader's own file",
    "postgresql://": "needs a database server",
    "--suite": "takes long on a CPU",
    "scaling_tests": "CI runs it as it is",
    "step_00000500": "training is shorter here",
    # Hides the wrapper.
    "export PATH=": "the path is set",
}


def shortened(text):
    """The commands that are run of a sh block."""
    commands = re.findall(r"(?:.*\\\n)*.*\S.*\n?", text)
    return "".join(c for c in commands
                   if not any(words in c for words in LEFT_OUT))


def known_keys(program, kind):
    return json.loads(subprocess.run([program, "config", kind, "--json"],
                                     check=True,
                                     stdout=subprocess.PIPE).stdout)


def unknown(table, known, path=""):
    for key, value in table.items():
        if not isinstance(known, dict) or key not in known:
            yield f"{path}{key}"
        elif isinstance(value, dict):
            yield from unknown(value, known[key], f"{path}{key}.")


def check_toml(text, program):
    table = tomllib.loads(text)
    left = [list(unknown(table, known_keys(program, kind)))
            for kind in ("train", "search")]
    return "" if [] in left else f"unknown keys: {min(left, key=len)}"


class Scratch:
    """A folder that looks like the repository to what is run in it."""

    def __init__(self, folder, build):
        self.folder = pathlib.Path(folder)
        for entry in ROOT.iterdir():
            if entry.name not in ("runs", ".git", "build"):
                (self.folder / entry.name).symlink_to(entry)
        # Not the build itself, which nothing here may configure anew.
        (self.folder / "build" / "release").mkdir(parents=True)
        for name in ("bin", "lib"):
            (self.folder / "build" / "release" / name).symlink_to(build / name)
        for name, text in OWN.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        wrapper = self.folder / "bin" / "einforge"
        wrapper.parent.mkdir()
        wrapper.write_text(SHORT.format(program=build / "bin" / "einforge"))
        wrapper.chmod(0o755)
        self.namespace = {}  # pages whose Python blocks go on from each other
        self.environment = {
            **os.environ, "HOME": folder, "EINFORGE_PROGRESS": "0",
            "PYTHONPATH": str(ROOT / "python"),
            "EINFORGE_LIBRARY": str(build / "lib" / "libeinforge_python.so"),
            "PATH": f"{wrapper.parent}:{ROOT / '.venv/bin'}:"
                    f"{os.environ['PATH']}"}

    def remove_runs(self):
        for folder in (self.folder / "runs").glob("*/log.jsonl"):
            shutil.rmtree(folder.parent)

    def run(self, block, program):
        if block.kind == "toml":
            return check_toml(block.text, program)
        if block.kind == "python":
            code = (self.namespace.get(block.page, "") + block.setup + "\n"
                    + block.text)
            self.namespace[block.page] = code
            command = [str(ROOT / ".venv/bin/python"), "-c", code]
        else:
            command = ["bash", "-euo", "pipefail", "-c",
                       block.setup + "\n" + shortened(block.text)]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=LIMIT, errors="replace")
        except subprocess.TimeoutExpired:
            return f"longer than {LIMIT} s"
        lines = done.stdout.strip().splitlines()
        return "" if done.returncode == 0 else (
            f"exit {done.returncode}: " + " | ".join(lines[-3:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("pages", nargs="*")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    build = (ROOT / options.build).resolve()
    program = build / "bin" / "einforge"
    # As a reader begins; later pages use what it makes.
    pages = ["README.md", "docs/getting_started.md", "CONTRIBUTING.md",
             "python/README.md"]
    pages += sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))
    blocks = [b for page in dict.fromkeys(pages) if (ROOT / page).exists()
              for b in blocks_of(page)]
    blocks += examples_of(program)
    for block in blocks:
        if block.kind == "sh" and not shortened(block.text):
            block.reason = block.reason or next(
                why for words, why in LEFT_OUT.items() if words in block.text)
    if options.pages:
        blocks = [b for b in blocks if b.page in options.pages]
    failed = 0
    if not options.pages and not options.list:
        failed += bool(subprocess.run(
            [ROOT / ".venv/bin/python", ROOT / "scripts/make_api.py", "--check"],
            check=False, env={**os.environ, "EINFORGE_LIBRARY": str(
                build / "lib" / "libeinforge_python.so")}).returncode)
    folder = tempfile.mkdtemp(prefix="einforge-docs-")
    try:
        scratch = Scratch(folder, build)
        for block in blocks:
            if options.list or block.reason:
                print(f"{'skip' if block.reason else 'run '} {block.name}"
                      f"  {block.reason}")
                continue
            if block.name == "help train:1":  # begins afresh
                scratch.remove_runs()
            error = scratch.run(block, program)
            failed += bool(error)
            print(f"{'FAIL' if error else 'ok  '} {block.name}  {error}",
                  flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(blocks)} blocks, {failed} failed")
    return 1 if failed or not blocks else 0


if __name__ == "__main__":
    sys.exit(main())
