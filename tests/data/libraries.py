"""Trains small tokenizers by their own libraries, and compares what einforge
made of a text with what the libraries make of it, one document at a time.

usage: libraries.py make FOLDER TEXT NAME...   such as bpe.json
       libraries.py random FILE BYTES          of any characters and any bytes
       libraries.py check DATA SOURCE          one file; not of --separator file
"""

import base64
import json
import pathlib
import random
import re
import sys


def byte_of_character():
    """GPT-2's characters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    others = [b for b in range(256) if b not in plain]
    return table | {chr(256 + i): b for i, b in enumerate(others)}


def train_bpe(lines, vocab_size=2000):
    """As GPT-2's."""
    from tokenizers import (AddedToken, Tokenizer, decoders, models,
                            pre_tokenizers, trainers)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    # Beyond the vocabulary, and taking the blanks around it.
    bpe.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    bpe.add_tokens(["einforge", "\U0001f600"])
    # Limits of a model's input must not cut a text.
    bpe.enable_truncation(8)
    return bpe


def ranks(bpe):
    """Lines of a .tiktoken file: tokens of bytes first, then by merge."""
    table = byte_of_character()
    merges = json.loads(bpe.to_str())["model"]["merges"]
    tokens = sorted(table) + ["".join(m) for m in merges]
    return b"".join(
        base64.b64encode(bytes(table[c] for c in token)) + b" %d\n" % rank
        for rank, token in enumerate(tokens))


def train_wordpiece(lines):
    from tokenizers import (Tokenizer, decoders, models, normalizers,
                            pre_tokenizers, trainers)
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.normalizer = normalizers.BertNormalizer()
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    piece.decoder = decoders.WordPiece()
    piece.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=1000, special_tokens=["[UNK]", "[SEP]"],
        show_progress=False))
    return piece


def train_unigram(lines):
    from tokenizers import (Tokenizer, decoders, models, pre_tokenizers,
                            trainers)
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(lines, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>"], unk_token="<unk>",
        show_progress=False))
    return unigram


def widened(bpe):
    """With a vocabulary beyond 65,536."""
    wide = json.loads(bpe.to_str())
    vocab = wide["model"]["vocab"]
    for token in [t for t in vocab if vocab[t] >= 300]:
        vocab[token] += 70_000
    for number in range(300, 70_300):
        vocab[f"unused{number}"] = number
    wide["added_tokens"] = wide["added_tokens"][:1]
    return json.dumps(wide)


def train_sentencepiece(lines, path):
    import sentencepiece
    kind = path.stem.removeprefix("piece_")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(s.strip() for s in lines if s.strip()),
        model_prefix=str(path.with_suffix("")), byte_fallback=True,
        vocab_size={"bpe": 1000, "unigram": 400}[kind], model_type=kind,
        minloglevel=2)


def make(folder, source, *names):
    lines = pathlib.Path(source).read_text().splitlines(keepends=True)
    few = lines[:1000]  # for slow trainers
    for name in names:
        path = pathlib.Path(folder) / name
        if path.suffix == ".model":
            train_sentencepiece(few, path)
        elif path.suffix == ".tiktoken":
            path.write_bytes(ranks(train_bpe(lines)))
        elif name == "wide.json":
            path.write_text(widened(train_bpe(lines)))
        else:
            {"bpe.json": train_bpe, "wordpiece.json": train_wordpiece,
             "unigram.json": lambda _: train_unigram(few)}[name](
                 lines).save(str(path))


def random_document(numbers):
    """Any bytes but NUL, or UTF-8 of what tokenizers may stumble over."""
    if numbers.random() < 0.3:
        return bytes(numbers.randrange(1, 256)
                     for _ in range(numbers.randrange(1, 200)))
    words = ["don't", "I'LL", " ", "  ", "\t", "\u3000", "12345", "\u0661",
             "<|endoftext|>", "<mask>", "einforge", "e\u0301", "\u1ec7",
             "\U0001f600", "\u200d", "\n", "\n x", "\r\n", "\r", "...",
             "\u4e2d\u6587", "\u00a0", "\u2028", "\ufeff"]
    parts = []
    for _ in range(numbers.randrange(60)):
        if numbers.random() < 0.5:
            parts.append(numbers.choice(words))
        else:
            code = numbers.choice([128, 2048, 65536, 0x110000])
            code = numbers.randrange(1, code)
            if not 0xD800 <= code < 0xE000:
                parts.append(chr(code))
    return "".join(parts).encode()


def write_random(path, size):
    numbers = random.Random(18)
    ends = [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n \t\n\n", b"\r\n\n"]
    with open(path, "wb") as file:
        file.write(b"x")  # no magic number of another kind of file
        while file.tell() < int(size):
            file.write(random_document(numbers) + numbers.choice(ends))


def documents_of(data, separator):
    """As docs/data.md says: with the blank lines after it."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if not text.endswith(("\n", "\r")):
        text += "\n"
    document, blank = "", False
    for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)", text):
        is_blank = not line.strip(" \t\r\n")
        if document and not is_blank and (blank or separator == "line"):
            yield document
            document = ""
        if document or not is_blank:
            document += line
            blank = is_blank
    if document:
        yield document


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
    import numpy as np

    meta = json.load(open(f"{folder}/meta.json"))
    encode = encoder(folder, meta)
    train, validation = (
        np.fromfile(f"{folder}/{name}", meta["dtype"])
        for name in ("train.bin", "val.bin"))
    end = [meta["end_of_text"]] if meta["end_of_text"] >= 0 else []
    # Each document is next on one side. Where it could be on both, as short ones
    # without an end-of-text token may, both ways are followed.
    total, count = 0, 0
    places = {0}  # in `train`; the others of `total` are in `validation`
    for document in documents_of(pathlib.Path(source).read_bytes(),
                                 meta["document_separator"]):
        tokens = encode(document) + end

        def is_next(side, place):
            return np.array_equal(side[place:place + len(tokens)], tokens)

        places = ({p + len(tokens) for p in places if is_next(train, p)}
                  | {p for p in places if is_next(validation, total - p)})
        if not places:
            sys.exit(f"not in either file, or not in order: {document!r}")
        total += len(tokens)
        count += 1
    assert len(train) in places and total == len(train) + len(validation)
    assert len(train) == meta["train"]["tokens"]
    assert sum(meta[s]["documents"] for s in ("train", "validation")) == count
    print(f"{count} documents, {total} tokens: equal")


if __name__ == "__main__":
    {"make": make, "check": check, "random": write_random}[sys.argv[1]](
        *sys.argv[2:])
