#!/usr/bin/env python3
"""Feeds damaged text and data folders to `einforge data`.

    scripts/mutate_data.py PROGRAM [--count N] [--seed N]

Each of N mutations of meta.json, of the token files and of texts must end
within 20 s with exit code 0, 1 or 2 and, unless 0, one line of plain words.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

LIMIT = 20  # seconds
RAW = ("json.exception", "enforce fail", "filesystem error", "std::", "stoll",
       "basic_string", "what():", "terminate called", "U_", "Sanitizer")


def mutate(data, rng):
    """A copy with bytes changed, cut, repeated, or replaced by odd values."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:at + rng.choice((1, 10, 1000))]
        elif kind == 2:
            data[at:at] = data[at:at + 500] * rng.choice((1, 3))
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 300)))
        elif kind == 4:
            depth = rng.choice((10, 1000, 100_000))
            data[at:at] = rng.choice((b"[", b'{"a":', b"\\", b'"')) * depth
        elif kind == 5:
            data[at:at + 1] = rng.choice((
                b"-1", b"0", b"1e999", b"18446744073709551616", b"null",
                b"NaN", b'"\xff"', b"4294967296", b"true", b"[]", b"{}"))
        elif kind == 6:
            data[at:at] = rng.choice((
                b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
                b"\r", b"\r\n\r", b"\x0c", b"\xef\xbb\xbf", b"\0",
                "e\u0301\u0323".encode(), "\u0301".encode() * 9000,
                b" " * 70_000))
        else:
            del data[:at]
    return bytes(data)


def run(arguments, stdin=None):
    """What is wrong with how the program ends, or None."""
    try:
        done = subprocess.run(
            arguments, input=stdin, capture_output=True, timeout=LIMIT,
            check=False)
    except subprocess.TimeoutExpired:
        return "took too long"
    error = done.stderr.decode(errors="replace")
    if done.returncode not in (0, 1, 2):
        return f"exit code {done.returncode}: {error[-300:]}"
    if any(raw in error for raw in RAW):
        return f"raw text: {error[-300:]}"
    errors = [line for line in error.splitlines() if ": error: " in line]
    if len(errors) != (done.returncode != 0):
        return f"{len(errors)} errors, exit code {done.returncode}: {error}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    program = str(options.program.resolve())
    rng = random.Random(options.seed)
    texts = [
        "".join(f"Entry {i}\ncaf\u00e9 {i}\u00bd \u201cx\u201d\n\n"
                for i in range(300)).encode(),
        "".join(f"{i}: e\u0301\u65e5\u672c\r\n\r\n" for i in range(300)).encode(),
        b"plain line\n" * 40 + b"\n\n" + b"x" * 5000 + b"\n \n\tz",
    ]
    failures = 0

    def check(problem, what, data):
        nonlocal failures
        if problem is not None:
            failures += 1
            kept = pathlib.Path(tempfile.gettempdir()) / f"mutated_{failures}"
            kept.write_bytes(data)
            print(f"{what}: {problem}\n  kept as {kept}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = folder / "source"
        source.write_bytes(texts[0])
        whole = folder / "data"
        prepare = [program, "data", "prepare", "--val-share", "0.3", "--out"]
        subprocess.run(prepare + [whole, source], capture_output=True, check=True)
        for i in range(options.count):
            for file in ("meta.json", "train.bin", "val.bin"):
                original = (whole / file).read_bytes()
                damaged = mutate(original, rng)
                (whole / file).write_bytes(damaged)
                check(run([program, "data", "inspect", whole]),
                      f"inspect, {file}", damaged)
                check(run(prepare + [whole, source]),
                      f"prepare over damaged {file}", damaged)
                (whole / file).write_bytes(original)
            text = mutate(texts[i % len(texts)], rng)
            tokens = rng.choice(("chars96", "bytes"))
            separator = rng.choice(("blank-line", "line", "file"))
            check(run(prepare + [folder / "out", "-", "--tokens", tokens,
                                 "--document-separator", separator], text),
                  f"prepare, {tokens}, {separator}", text)
    print(f"{4 * options.count} mutations, {failures} failures")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
