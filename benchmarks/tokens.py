#!/usr/bin/env python3
"""How fast text becomes tokens by the libraries of tokenizers, and how fast
tokens of other programs are imported, on the machine as it is.

    python3 benchmarks/tokens.py build/release/bin/einforge TEXT [--out FILE]

TEXT, one paragraph a line, some 100 MB of it, trains tokenizers like GPT-2's
(BPE of bytes, 50,257 tokens; the same as ranks of tiktoken) and a SentencePiece
model (BPE, 32,000) with the packages tokenizers, tiktoken and sentencepiece. Of
each kind: megabytes of text per minute of `data prepare`, start included, and
the memory of the larger of its two processes. Wanted: at least 20 MB per minute.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

sys.path.append(
    str(pathlib.Path(__file__).resolve().parents[1] / "tests/data"))
import libraries  # noqa: E402

VOCABULARY = 50_257
WANTED = 20  # MB per minute


def peak_memory(process):
    """Megabytes of a process or a child of it; 0 for those that have ended."""
    try:
        children = pathlib.Path(
            f"/proc/{process}/task/{process}/children").read_text().split()
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return max([int(peak[1]) / 1024 if peak else 0, *map(peak_memory, children)])


def measure(*command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL,
        env={**os.environ, "EINFORGE_PROGRESS": "0",
             "EINFORGE_PYTHON": sys.executable})
    megabytes = 0
    while process.poll() is None:
        megabytes = max(megabytes, peak_memory(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": round(seconds, 2),
            "cpu_seconds": round(after.ru_utime + after.ru_stime
                                 - before.ru_utime - before.ru_stime, 2),
            "largest_process_mb": round(megabytes)}


def train_tokenizers(text, folder):
    """Paths by kind."""
    import sentencepiece
    with open(text) as lines:
        bpe = libraries.train_bpe(lines, VOCABULARY)
    bpe.save(f"{folder}/bpe.json")
    (folder / "bpe.tiktoken").write_bytes(libraries.ranks(bpe))
    with open(text) as lines:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(s.strip() for s in
                               itertools.islice(lines, 50_000)),
            model_prefix=f"{folder}/piece", vocab_size=32_000,
            model_type="bpe", byte_fallback=True, minloglevel=2)
    return {"tokenizers": folder / "bpe.json",
            "tiktoken": folder / "bpe.tiktoken",
            "sentencepiece": folder / "piece.model"}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    megabytes = arguments.text.stat().st_size / 1e6
    result = {"cpus": len(os.sched_getaffinity(0)),
              "load_before": round(os.getloadavg()[0], 2),
              "text_mb": round(megabytes, 1), "runs": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for kind, path in train_tokenizers(arguments.text, folder).items():
            out = folder / kind
            run = measure(arguments.program, "data", "prepare", arguments.text,
                          "--document-separator", "line", "--tokens", path,
                          "--out", out)
            meta = json.loads((out / "meta.json").read_text())
            run = {"version": importlib.metadata.version(kind),
                   "vocab_size": meta["vocab_size"],
                   "tokens": meta["train"]["tokens"]
                   + meta["validation"]["tokens"],
                   "mb_per_minute": round(60 * megabytes / run["seconds"], 1),
                   **run}
            result["runs"][kind] = run
        tokens = folder / "tokenizers" / "train.bin"
        result["import"] = measure(
            arguments.program, "data", "import", tokens, "--vocab", 50_304,
            "--end-of-text", 0, "--out", folder / "imported")
        result["import"]["mb"] = round(tokens.stat().st_size / 1e6, 1)
    for kind, run in result["runs"].items():
        print(f"{kind:<15}{run['mb_per_minute']:>8.0f} MB per minute, largest "
              f"process {run['largest_process_mb']} MB")
    if arguments.out:
        pathlib.Path(arguments.out).write_text(
            json.dumps(result, indent=1) + "\n")
    return min(r["mb_per_minute"] for r in result["runs"].values()) < WANTED


if __name__ == "__main__":
    sys.exit(main())
