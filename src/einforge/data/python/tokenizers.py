"""Runs a tokenizer's own library for einforge.

    python tokenizers.py KIND FILE PATTERN

KIND is tokenizer.json (tokenizers), tiktoken or sentencepiece. Standard input
and output carry frames, all numbers little-endian uint32:

    at the start  I size JSON        {"vocab_size":, "end_of_text":}
    E count sizes... UTF-8...    ->  T count sizes... tokens...
    D count tokens...            ->  S size UTF-8
    what failed                  ->  X size message, and the end
"""

import sys

# A file of the folder that einforge runs in is no library.
sys.path[:] = [path for path in sys.path if path]

import array
import json
import os
import struct

os.environ["TOKENIZERS_PARALLELISM"] = "true"

# Names of the end-of-text token, the most telling first.
ENDS = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>", "[EOS]", "<|im_end|>",
        "[SEP]"]

_WORDS = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]")
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
            r"|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
              r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+",
    "o200k": _WORDS + r"*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" + _WORDS +
             r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+",
}
# Known files by how many ranks they have: pattern, end of text, vocabulary.
KNOWN = {
    50256: ("gpt2", 50256, 50257),      # gpt2, r50k_base
    50280: ("gpt2", 50256, 50281),      # p50k_base
    100256: ("cl100k", 100257, 100277),  # cl100k_base
    199998: ("o200k", 199999, 200019),  # o200k_base
    128000: ("cl100k", 128001, 128256),  # Llama 3
}


class Refused(Exception):
    """What a user can mend."""


def load(package):
    try:
        return __import__(package)
    except ImportError as error:
        if error.name not in (None, package):
            raise
        raise Refused(
            f"expected the Python package {package}; {sys.executable} has "
            f"none: {sys.executable} -m pip install {package}") from None


class HuggingFace:
    def __init__(self, path, _):
        tokenizers = load("tokenizers")
        self.tokenizer = tokenizers.Tokenizer.from_file(path)
        # A limit of a model's input is none of a text.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=-1) + 1
        self.end_of_text = next((ids[e] for e in ENDS if e in ids), -1)
        self.batch = getattr(self.tokenizer, "encode_batch_fast",
                             self.tokenizer.encode_batch)

    def encode(self, texts):
        return [e.ids for e in self.batch(texts, add_special_tokens=False)]

    def decode(self, ids):
        return self.tokenizer.decode(
            ids, skip_special_tokens=False).encode("utf-8", "replace")


class Tiktoken:
    def __init__(self, path, pattern):
        tiktoken = load("tiktoken")
        import base64
        ranks = {}
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    token, rank = line.split()
                    ranks[base64.b64decode(token, validate=True)] = int(rank)
                except ValueError:
                    raise Refused(f"expected a token in base64 and its rank "
                                  f"in line {number}") from None
        missing = sum(bytes([b]) not in ranks for b in range(256))
        if missing or len(set(ranks.values())) != len(ranks):
            raise Refused(f"expected a rank for each byte and none twice; got "
                          f"none for {missing} bytes")
        known = KNOWN.get(len(ranks))
        if not known:
            if not pattern:
                raise Refused(
                    f"expected {', '.join(map(str, KNOWN))} tokens of a known "
                    f"encoding; got {len(ranks)}: say how it cuts text by "
                    f"--pattern {'|'.join(PATTERNS)}")
            end = max(ranks.values()) + 1
            known = (pattern, end, end + 1)
        name, self.end_of_text, self.vocab_size = known
        special = {"<|endoftext|>": self.end_of_text}
        self.encoding = tiktoken.Encoding(
            "file", pat_str=PATTERNS[pattern or name], mergeable_ranks=ranks,
            special_tokens=special)
        self.known = set(ranks.values()) | set(special.values())

    def encode(self, texts):
        return self.encoding.encode_ordinary_batch(
            texts, num_threads=os.cpu_count() or 1)

    def decode(self, ids):
        # A padded vocabulary has tokens that are nothing.
        return self.encoding.decode_bytes([i for i in ids if i in self.known])


class SentencePiece:
    def __init__(self, path, _):
        sentencepiece = load("sentencepiece")
        self.model = sentencepiece.SentencePieceProcessor()
        self.model.Load(path)
        self.vocab_size = self.model.vocab_size()
        self.end_of_text = self.model.eos_id()

    def encode(self, texts):
        return self.model.encode(texts, out_type=int,
                                 num_threads=os.cpu_count() or 1)

    def decode(self, ids):
        return self.model.decode(
            [i for i in ids if i < self.vocab_size]).encode("utf-8", "replace")


KINDS = {"tokenizer.json": HuggingFace, "tiktoken": Tiktoken,
         "sentencepiece": SentencePiece}


def main():
    source = sys.stdin.buffer
    # Nothing that a library prints may come between the frames.
    target = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)

    def send(kind, *parts):
        target.write(kind)
        for part in parts:
            target.write(part)
        target.flush()

    def read(size):
        data = source.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def read_numbers(count):
        numbers = array.array("I")
        numbers.frombytes(read(4 * count))
        return numbers

    def packed(data):
        return struct.pack("<I", len(data)), data

    try:
        tokenizer = KINDS[sys.argv[1]](*sys.argv[2:4])
        send(b"I", *packed(json.dumps(
            {"vocab_size": tokenizer.vocab_size,
             "end_of_text": tokenizer.end_of_text}).encode()))
        while kind := source.read(1):
            count, = read_numbers(1)
            numbers = read_numbers(count)
            if kind == b"E":
                texts = [read(size).decode("utf-8") for size in numbers]
                ids = tokenizer.encode(texts)
                send(b"T", struct.pack("<I", count),
                     array.array("I", map(len, ids)).tobytes(),
                     *(array.array("I", i).tobytes() for i in ids))
            else:
                send(b"S", *packed(tokenizer.decode(numbers.tolist())))
    except EOFError:
        pass
    except BaseException as error:  # pyo3 panics are no Exception
        message = str(error).strip() or type(error).__name__
        if not isinstance(error, Refused):
            message = f"{sys.argv[1]}: {message}"
        line = message.splitlines()[0]
        send(b"X", *packed(line.encode("utf-8", "replace")))


main()
