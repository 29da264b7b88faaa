"""Trains small tokenizers by their own libraries, and compares what einforge
made of a text with what the libraries make of it, one document at a time.

usage: libraries.py make FOLDER TEXT     tokenizers of what is installed
       libraries.py check DATA SOURCE    of documents ended by blank lines
"""

import base64
import json
import pathlib
import random
import re
import sys

import numpy as np


def byte_of_character():
    """GPT-2's characters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in plain]
    return table | {chr(256 + i): b for i, b in enumerate(others)}


def make(folder, source):
    folder, text = pathlib.Path(folder), pathlib.Path(source).read_text()
    lines = text.splitlines(keepends=True)
    few = lines[:1000]  # for slow trainers
    try:
        from tokenizers import (Tokenizer, decoders, models, normalizers,
                                pre_tokenizers, trainers)
    except ImportError:
        pass
    else:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        bpe.train_from_iterator(lines, trainers.BpeTrainer(
            vocab_size=2000, special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False))
        # Limits of a model's input must not cut a text.
        bpe.enable_truncation(8)
        bpe.save(str(folder / "bpe.json"))
        # The same tokens as ranks: those of bytes first, then by merge.
        table = byte_of_character()
        merges = json.loads(bpe.to_str())["model"]["merges"]
        tokens = sorted(table) + ["".join(m) for m in merges]
        with open(folder / "ranks.tiktoken", "wb") as file:
            for rank, token in enumerate(tokens):
                word = base64.b64encode(bytes(table[c] for c in token))
                file.write(word + b" %d\n" % rank)
        piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        piece.normalizer = normalizers.BertNormalizer()
        piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        piece.decoder = decoders.WordPiece()
        piece.train_from_iterator(lines, trainers.WordPieceTrainer(
            vocab_size=1000, special_tokens=["[UNK]", "[SEP]"],
            show_progress=False))
        piece.save(str(folder / "wordpiece.json"))
        unigram = Tokenizer(models.Unigram())
        unigram.pre_tokenizer = pre_tokenizers.Metaspace()
        unigram.decoder = decoders.Metaspace()
        unigram.train_from_iterator(few, trainers.UnigramTrainer(
            vocab_size=500, special_tokens=["<unk>"], unk_token="<unk>",
            show_progress=False))
        unigram.save(str(folder / "unigram.json"))
        # A vocabulary beyond 65,536.
        wide = json.loads(bpe.to_str())
        vocab = wide["model"]["vocab"]
        for token in [t for t in vocab if vocab[t] >= 300]:
            vocab[token] += 70_000
        for number in range(300, 70_300):
            vocab[f"unused{number}"] = number
        (folder / "wide.json").write_text(json.dumps(wide))
    try:
        import sentencepiece
    except ImportError:
        pass
    else:
        for kind, size in (("bpe", 1000), ("unigram", 400)):
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(s.strip() for s in few if s.strip()),
                model_prefix=str(folder / f"piece_{kind}"), vocab_size=size,
                model_type=kind, byte_fallback=True, minloglevel=2)
    # Any text that is UTF-8, and bytes that are not.
    numbers = random.Random(18)
    with open(folder / "random.txt", "wb") as file:
        for _ in range(2000):
            file.write(random_document(numbers).encode() + b"\n\n")


def random_document(numbers):
    words = ["don't", "I'LL", " ", "  ", "\t", "\u3000", "12345", "\u0661",
             "<|endoftext|>", "e\u0301", "\u1ec7", "\U0001f600", "\u200d",
             "\n", "\n x", "...", "\u4e2d\u6587", "\u00a0"]
    parts = ["x"]
    for _ in range(numbers.randrange(60)):
        if numbers.random() < 0.5:
            parts.append(numbers.choice(words))
        else:
            code = numbers.choice([128, 2048, 65536, 0x110000])
            code = numbers.randrange(1, code)
            if code not in (10, 13, 0xFEFF) and not 0xD800 <= code < 0xE000:
                parts.append(chr(code))
    # No blank lines within.
    return re.sub(r"\n[ \t]*(?=\n|$)", "", "".join(parts))


def encoder(folder, meta):
    path = f"{folder}/{meta['tokenizer']['file']}"
    if meta["tokens"] == "tokenizer.json":
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(path)
        tokenizer.no_truncation()
        return lambda text: tokenizer.encode(
            text, add_special_tokens=False).ids
    if meta["tokens"] == "tiktoken":
        import tiktoken
        import tiktoken.load
        pattern = meta["tokenizer"]["pattern"]
        assert pattern == "gpt2"
        encoding = tiktoken.Encoding(
            "test", mergeable_ranks=tiktoken.load.load_tiktoken_bpe(path),
            special_tokens={}, pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+"
            r"| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
        return encoding.encode_ordinary
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    return model.encode


def check(folder, source):
    meta = json.load(open(f"{folder}/meta.json"))
    encode = encoder(folder, meta)
    text = open(source, encoding="utf-8", newline="").read()
    documents = re.findall(r".+?(?:\n\n+|\n?\Z)", text, re.S)
    sides = {side: np.fromfile(f"{folder}/{name}", meta["dtype"])
             for side, name in (("train", "train.bin"),
                                ("validation", "val.bin"))}
    places = dict.fromkeys(sides, 0)
    end = meta["end_of_text"]
    for document in documents:
        tokens = encode(document) + ([end] if end >= 0 else [])
        for side, all_tokens in sides.items():
            place = places[side]
            if np.array_equal(all_tokens[place:place + len(tokens)], tokens):
                places[side] += len(tokens)
                break
        else:
            sys.exit(f"not in either file, or not in order: {document!r}")
    for side, tokens in sides.items():
        assert places[side] == len(tokens) == meta[side]["tokens"], side
    assert sum(meta[s]["documents"] for s in sides) == len(documents)


{"make": make, "check": check}[sys.argv[1]](*sys.argv[2:])
