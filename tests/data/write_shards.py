"""Writes token files as other programs do, sharing no code with einforge.

usage: write_shards.py FOLDER

Into FOLDER/NAME/: token files of format NAME, and tokens.npy, the int64 tokens
that they are together. Documents are 1 to 59 tokens and an end-of-text token.
"""

import json
import pathlib
import struct
import sys

import numpy as np

root = pathlib.Path(sys.argv[1])
random = np.random.default_rng(18)


def documents(vocab, end, starts=False, total=20_000):
    """Tokens, and where documents begin."""
    parts, begins, size = [], [], 0
    while size < total:
        length = int(random.integers(1, 60))
        text = random.integers(0, end, length)  # below `end`
        part = [[end], text] if starts else [text, [end]]
        begins.append(size)
        parts += part
        size += length + 1
    return np.concatenate(parts).astype(np.int64), begins


def folder(name, tokens):
    path = root / name
    path.mkdir(parents=True)
    np.save(path / "tokens.npy", tokens)
    return path


# llm.c's dev/data/data_common.py, write_datafile().
def shard(path, tokens, magic, version, dtype):
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, len(tokens)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype(dtype).tobytes())


def shards(name, vocab, end, starts, *kind):
    tokens, _ = documents(vocab, end, starts)
    path = folder(name, tokens)
    for number, part in enumerate(np.array_split(tokens, 3)):
        shard(path / f"x_train_{number:06}.bin", part, *kind)
    shard(path / "x_val_000000.bin", tokens[:5000], *kind)


shards("gpt2", 50257, 50256, True, 20240520, 1, np.uint16)
shards("llama3", 128256, 128000, True, 20240801, 7, np.uint32)

tokens, _ = documents(50257, 50256)
tokens.astype(np.uint16).tofile(folder("nanogpt", tokens) / "train.bin")
tokens, _ = documents(100_000, 99_999)
tokens.astype(np.uint32).tofile(folder("nanogpt32", tokens) / "train.bin")

# numpy.save of every type; two dimensions, and the older and newer headers.
for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
    tokens, _ = documents(100, 99)
    tokens = np.append(tokens, np.full(-len(tokens) % 4, 99))
    array = tokens.astype("<" + dtype)
    path = folder(f"npy_{dtype}", tokens)
    half = len(array) // 8 * 4
    np.save(path / "a.npy", array[:half])
    with open(path / "b.npy", "wb") as file:
        np.lib.format.write_array(file, array[half:].reshape(4, -1),
                                  version=(2, 0))


# Megatron-LM's megatron/core/datasets/indexed_dataset.py, _IndexWriter.
CODES = {"u1": 1, "i1": 2, "i2": 3, "i4": 4, "i8": 5, "u2": 8}


def megatron(path, tokens, begins, dtype, sentences=1):
    lengths = np.diff([*begins, len(tokens)])
    # Each document in `sentences` sequences.
    parts = [len(p) for n in lengths for p in
             np.array_split(np.empty(n), sentences)]
    array = tokens.astype("<" + dtype)
    array.tofile(path.with_suffix(".bin"))
    pointers = (np.cumsum([0, *parts[:-1]]) * array.itemsize).astype("<i8")
    document = np.arange(0, len(parts) + 1, sentences)
    with open(path.with_suffix(".idx"), "wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<QBQQ", 1, CODES[dtype], len(parts),
                               len(document)))
        file.write(np.array(parts, "<i4").tobytes())
        file.write(pointers.tobytes())
        file.write(document.astype("<i8").tobytes())


for dtype in CODES:
    tokens, begins = documents(100, 99)
    megatron(folder(f"megatron_{dtype}", tokens) / "text_document", tokens,
             begins, dtype, sentences=3 if dtype == "u2" else 1)

# What is damaged.
bad = folder("bad", np.zeros(1, np.int64))
good = (root / "gpt2/x_train_000000.bin").read_bytes()


def change(name, at, new):
    data = bytearray(good)
    data[at:at + len(new)] = new
    (bad / name).write_bytes(data)


change("magic.bin", 0, struct.pack("<i", 20240521))
change("big_endian.bin", 0, struct.pack(">i", 20240520))
change("version.bin", 4, struct.pack("<i", 2))
change("range.bin", 1024 + 2 * 1000, struct.pack("<H", 50257))
(bad / "truncated.bin").write_bytes(good[:-1])
(bad / "header.bin").write_bytes(good[:1000])
(bad / "longer.bin").write_bytes(good + b"\0\0")
(bad / "empty.bin").write_bytes(b"")
(7 * np.arange(9000)).astype(np.uint16).tofile(bad / "raw.bin")
(bad / "odd.bin").write_bytes(b"\1\0\2")
(bad / "text.bin").write_text("One line, and another one.\r\n" * 99)
np.save(bad / "object.npy", np.array([{"a": 1}, [2]], dtype=object),
        allow_pickle=True)
np.save(bad / "float.npy", np.zeros(9))
np.save(bad / "big.npy", np.zeros(9, ">u2"))
np.save(bad / "record.npy", np.zeros(9, [("a", "<u2")]))
np.save(bad / "fortran.npy", np.asfortranarray(np.ones((3, 4), "<u2")))
np.save(bad / "negative.npy", np.array([1, 2, -3] * 9, "<i8"))
npy = (root / "npy_u2/a.npy").read_bytes()
(bad / "cut.npy").write_bytes(npy[:-3])
(bad / "text.npy").write_bytes(b"not an array")
index = (root / "megatron_u2/text_document.idx").read_bytes()
data = (root / "megatron_u2/text_document.bin").read_bytes()
for name, (a, b) in {"cut_index": (index[:-8], data),
                     "cut_data": (index, data[:-2]),
                     "old": (b"TNTIDX\0\0" + index[8:], data),
                     "float": (index[:17] + b"\x07" + index[18:], data)}.items():
    (bad / f"{name}.idx").write_bytes(a)
    (bad / f"{name}.bin").write_bytes(b)
print(json.dumps({"numpy": np.__version__}))
