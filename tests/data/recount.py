"""Checks a data folder against its source, sharing no code with einforge.

usage: recount.py FOLDER SOURCE   (blank-line documents)
"""

import json
import re
import sys

import numpy as np

folder, source = sys.argv[1:]
meta = json.load(open(f"{folder}/meta.json"))
sides = {}
for side, name in (("train", "train.bin"), ("validation", "val.bin")):
    tokens = np.memmap(f"{folder}/{name}", dtype=np.uint16, mode="r")
    assert len(tokens) == meta[side]["tokens"], (side, len(tokens))
    assert tokens.max() < meta["vocab_size"]
    if meta["tokens"] == "bytes":
        sides[side] = bytes(tokens.astype(np.uint8)).decode("utf-8")
    else:
        symbols = meta["symbols"]
        assert symbols == "\n" + "".join(map(chr, range(32, 127)))
        sides[side] = "".join(symbols[token] for token in tokens)

text = open(source, encoding="utf-8", newline="").read()
documents = [d + "\n\n" for d in re.split(r"\n\n+", text.rstrip("\n"))]
documents[-1] = documents[-1][:-1]
unknown = 0


def pattern(document):
    """What may stand for the document: the ASCII of it, in order."""
    if meta["tokens"] == "bytes":
        return re.compile(re.escape(document))
    parts = re.split(r"([^\n -~])", document)
    return re.compile(
        "".join(re.escape(p) if i % 2 == 0 else r"[ -~\n]{0,4}?"
                for i, p in enumerate(parts)))


counts = {"train": 0, "validation": 0}
places = {"train": 0, "validation": 0}
for document in documents:
    expression = pattern(document)
    for side in counts:
        if match := expression.match(sides[side], places[side]):
            places[side] = match.end()
            counts[side] += 1
            break
    else:
        sys.exit(f"not in either file, or not in order: {document!r}")
for side in counts:
    assert counts[side] == meta[side]["documents"], (side, counts)
    assert places[side] == len(sides[side]), (side, places)
beyond = sum(1 for c in text if not (c == "\n" or " " <= c <= "~"))
replaced = meta["replaced"]
if meta["tokens"] == "chars96":
    assert beyond == sum(
        replaced[k] for k in ("dropped", "transliterated", "unknown")), beyond
