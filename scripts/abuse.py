#!/usr/bin/env python3
"""Runs einforge on damaged files, closed streams and exhausted limits.

    scripts/abuse.py PROGRAM [--count 200] [--seed 1] [--only PART]...

Parts: streams, hangup, csv, store, data, text, checkpoint, config. Each of the
last six damages that many copies of a file at random. Whatever happens, a
command ends within 20 s (longer while other processes use the CPUs) with exit
code 0, 1 or 2 (130 where it was told to stop), says an error in one printable
line without a library's words, and leaves no temporary file. Parts that need
commands the program lacks (a build without Torch) are left out with a line.
"""

import argparse
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

LIMIT = 20  # seconds, of an idle machine


def patience():
    """LIMIT, and as much longer as other processes leave less of the CPUs."""
    return LIMIT * max(1, os.getloadavg()[0] / os.cpu_count())


RAW = re.compile(
    rb"json\.exception|enforce fail|filesystem error|std::|stoll|stod\b|"
    rb"map::at|_M_|basic_string|terminate called|core dumped|c10::|"
    rb"\[sqlite|AddressSanitizer|runtime error|internal error")
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")

GPT = """steps = 2
eval_every = 1
eval_batches = 1
device = "cpu"
[model]
width = 16
layers = 1
context = 16
head_width = 8
structure.all = "monarch"
[data]
path = "{data}"
batch_size = 2
"""
SEARCH = """out = "{search}"
structures = ["dense", "monarch"]
widths = [16]
curve_points = 3
bootstrap = 5
[budget]
tokens = 128
[train]
device = "cpu"
eval_batches = 1
[train.model]
kind = "mlp"
layers = 1
[train.data]
batch_size = 16
"""
CSV = "structure,run,compute,loss\n" + "".join(
    f"{s},{s}{size},{size * step * 1e9},{2 + (size * step) ** -0.3 + bad}\n"
    for s, bad in (("dense", 0), ("btt", 0.01))
    for size in (1, 2, 4) for step in (1, 2, 4, 8, 16, 32))

# Bytes that random ones would not come to.
PIECES = [
    b"\x1b[31m", b"\xe2\x80\xae", b"\xff\xfe", b"\x00", b"\n", b"\r\n", b'"',
    b"{", b"}", b"[", b"]", b",", b"=", b":", b"-1", b"0", b"1e999", b"NaN",
    b"null", b"true", b"4294967296", b"9223372036854775808", b"1e30", b"=1+1",
    b"\r", b"\n\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"\xbd" * 9000,
    "e\u0301\u65e5".encode(), "\u0301".encode() * 9000, b" " * 70_000,
    b"[" * 100_000, b'{"a":' * 50_000, b"x." * 30_000, b"../" * 100,
]


def damaged(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 4, 16, 256)))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.choice(PIECES)
        elif kind == 2:
            data[at:end] = rng.choice(PIECES)
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            data[at:at] = data[at:end] * rng.choice((1, 3, 2000))
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data)


def damage_rows(path, rng):
    """A store that is whole as a database but says nonsense."""
    values = ["", "x", "\x1b[2J", "[" * 100_000, "{}", "[]", -1, 2**62, None,
              1e308, b"\xff\x00", "nan", '{"a":' * 1000, "\u202etxt"]
    views = ["WITH RECURSIVE a(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM a) "
             "SELECT x, x, x, x FROM a"]
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            "AND name NOT LIKE 'sqlite_%'")]
        table = rng.choice(tables)
        columns = [row[1] for row in
                   database.execute(f"PRAGMA table_info({table})")]
        column = rng.choice(columns)
        kind = rng.randrange(4)
        try:
            if kind < 2:
                database.execute(f"UPDATE {table} SET {column} = ?",
                                 (rng.choice(values),))
            elif kind == 2:
                database.execute(f"DROP TABLE {table}")
                database.execute(f"CREATE VIEW {table} AS {rng.choice(views)}")
            else:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        except sqlite3.Error:
            pass  # a constraint held
    database.close()


class Abuse:
    def __init__(self, options, folder):
        self.program = str(pathlib.Path(options.program).resolve())
        self.folder = pathlib.Path(folder)
        self.options = options
        self.faults = 0
        self.runs = 0
        self.slowest = (0.0, "")
        self.environment = {**os.environ, "EINFORGE_PROGRESS": "0",
                            "OMP_NUM_THREADS": "1"}
        self.commands = set(re.findall(
            r"^  (\w+)", self.plain("--help"), re.M))

    def plain(self, *words):
        done = subprocess.run([self.program, *words], text=True, check=True,
                              stdin=subprocess.DEVNULL, env=self.environment,
                              cwd=self.folder, stdout=subprocess.PIPE)
        return done.stdout

    def fault(self, what, words):
        self.faults += 1
        print(f"FAULT {what}\n  einforge {' '.join(map(str, words))}",
              flush=True)

    def check(self, words, code, output, seconds, allowed=(0, 1, 2)):
        self.runs += 1
        self.slowest = max(self.slowest, (seconds, " ".join(map(str, words))))
        errors = [line for line in output.splitlines()
                  if b"einforge: error:" in line]
        if code not in allowed:
            self.fault(f"exit {code}: {output[-300:]!r}", words)
        elif raw := RAW.search(output):
            self.fault(f"raw text {raw[0]!r} in {output[-300:]!r}", words)
        elif CONTROL.search(output):
            self.fault(f"control characters in {output[-300:]!r}", words)
        elif code in (1, 2) and len(errors) > 1:
            self.fault(f"{len(errors)} error lines: {output[-300:]!r}", words)
        left = [str(p) for p in self.folder.rglob("*.einforge-tmp")]
        if left:
            self.fault(f"left {left}", words)
            for path in left:
                os.unlink(path)

    def run(self, words, setup="", redirect="", out=None, err=None,
            environment=None, allowed=(0, 1, 2)):
        """The exit code and what the command printed where that is a pipe."""
        log = self.folder / "output"
        with open(log, "wb") as file:
            start = time.monotonic()
            process = subprocess.Popen(
                ["bash", "-c", f'{setup} exec "$0" "$@" {redirect}',
                 self.program, *map(str, words)],
                stdin=subprocess.DEVNULL, cwd=self.folder,
                stdout=file if out is None else out,
                stderr=file if err is None else err,
                env={**self.environment, **(environment or {})})
            try:
                code = process.wait(patience())
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.fault(f"longer than {time.monotonic() - start:.0f} s",
                           [*words, setup, redirect])
                return -1, b""
        output = log.read_bytes()
        where = [*words, setup, redirect]
        self.check(where, code, output, time.monotonic() - start, allowed)
        return code, output

    # What is there to be damaged.

    def make_world(self):
        root = self.folder
        (root / "text.txt").write_text("".join(
            f"line {i} says nothing new\n" for i in range(300)))
        (root / "words.txt").write_text("".join(
            f"Entry {i}\ncaf\u00e9 {i}\u00bd e\u0301\n\n" for i in range(300)))
        (root / "runs.csv").write_text(CSV)
        self.plain("data", "prepare", "text.txt", "--out", "data",
                   "--document-separator", "line", "--val-share", "0.3")
        (root / "gpt.toml").write_text(GPT.format(data=root / "data"))
        (root / "search.toml").write_text(
            SEARCH.format(search=root / "search"))
        if "train" in self.commands:
            self.plain("train", "gpt.toml", "--out", "run")
        if "search" in self.commands:
            self.plain("search", "search.toml", "--quiet")
        else:
            (root / "search").mkdir()
            shutil.copy(pathlib.Path(__file__).parent.parent
                        / "results/h100/search/trials.db", root / "search")
        self.store = root / "search" / "trials.db"

    def every_command(self):
        """Name, words, and the folder that it writes."""
        commands = [
            ("describe", ["describe", "--list"], None),
            ("config", ["config", "--markdown"], None),
            ("help", ["help", "--man"], None),
            ("data", ["data", "prepare", "text.txt", "--out", "o/data",
                      "--document-separator", "line"], "o/data"),
            ("data", ["data", "inspect", "data"], None),
            ("fit", ["fit", "runs.csv", "--bootstrap", "5", "--csv",
                     "o/fit.csv"], None),
            ("report", ["report", self.store, "--bootstrap", "5", "--out",
                        "o/report.html", "--json=o/report.json"], None),
            ("train", ["train", "gpt.toml", "--out", "o/run"], None),
            ("generate", ["generate", "run", "--tokens", "5"], None),
            ("search", ["search", "search.toml", "--out", "o/search"], None),
            ("bench", ["bench", "--device", "cpu", "--structures", "monarch",
                       "--widths", "16", "--tokens", "4", "--repeats", "1"],
             None),
        ]
        return [c for c in commands if c[0] in self.commands]

    def fresh(self):
        shutil.rmtree(self.folder / "o", ignore_errors=True)
        (self.folder / "o").mkdir()

    # The parts.

    def streams(self):
        closed = ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 2>&-",
                  "1>&- 2>&-", "0<&- 1>&- 2>&-"]
        full = ["1> /dev/full", "2> /dev/full", "> /dev/full 2>&1",
                "0<&- > /dev/full", "2>&- > /dev/full"]
        limits = [f"ulimit -f {blocks};" for blocks in (0, 1, 4, 64, 512)]
        for name, words, data in self.every_command():
            for redirect in closed + full:
                self.fresh()
                code, output = self.run(words, redirect=redirect)
                if redirect == "1> /dev/full" and (
                        code == 0 or output.count(b"einforge: error:") != 1):
                    self.fault(f"a full disk gave {code}, {output!r}", words)
                if data and code == 0:
                    self.run(["data", "inspect", data])
            for setup in limits:
                self.fresh()
                self.run(words, setup=setup)
            for ends in ({"out"}, {"err"}, {"out", "err"}):
                reader, writer = os.pipe()
                os.close(reader)
                self.fresh()
                self.run(words, **{end: writer for end in ends})
                os.close(writer)
            self.fresh()
            self.run(words, environment={"TMPDIR": "/no such folder"})
            self.run([*words, "--set"] if name in ("train", "search")
                     else [*words, "caf\udce9"])

    def hangup(self):
        """A terminal that goes away while a run trains."""
        if "train" not in self.commands:
            print("hangup: left out, the program has no `train`")
            return
        for stop in ("hang up", signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            self.fresh()
            words = ["train", "gpt.toml", "--out", "o/run", "--set",
                     "steps=1000000", "--set", "eval_every=0"]
            child, master = pty.fork()
            if child == 0:
                # Ignored where this script runs under nohup, and by it too.
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
                os.chdir(self.folder)
                os.environ.update(self.environment, EINFORGE_PROGRESS="1")
                os.execv(self.program, [self.program, *words])
            log = self.folder / "o/run/log.jsonl"
            end = time.monotonic() + patience()
            while time.monotonic() < end and not (
                    log.exists() and log.stat().st_size > 200):
                os.set_blocking(master, False)
                try:
                    os.read(master, 65536)
                except (BlockingIOError, OSError):
                    pass
                time.sleep(0.1)
            start = time.monotonic()
            if stop == "hang up":
                os.close(master)
            else:
                os.kill(child, stop)
                os.close(master)
            code = self.ended(child)
            self.check([*words, str(stop)], code, b"",
                       time.monotonic() - start, (130,))
            if not list((self.folder / "o/run/checkpoints").glob("step_*")):
                self.fault(f"no checkpoint after {stop}", words)

    def ended(self, child):
        """The exit code of a process, which is killed where it does not end."""
        end = time.monotonic() + patience()
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def damage(self, name, paths, commands):
        rng = random.Random(f"{self.options.seed} {name}")
        before = {path: path.read_bytes() for path in paths}
        for i in range(self.options.count):
            path = rng.choice(paths)
            if name == "store" and i % 2:
                damage_rows(path, rng)
            else:
                path.write_bytes(damaged(before[path], rng))
            for words in commands:
                self.fresh()
                if all(str(w) in self.commands for w in words[:1]):
                    self.run(words)
            for other in path.parent.glob(path.name + "-*"):  # SQLite's
                other.unlink()
            path.write_bytes(before[path])

    def csv(self):
        self.damage("csv", [self.folder / "runs.csv"],
                    [["fit", "runs.csv", "--bootstrap", "5"]])

    def store_(self):
        commands = [["report", self.store, "--bootstrap", "5", "--out",
                     "o/r.html"], ["fit", self.store, "--bootstrap", "5"]]
        self.damage("store", [self.store], commands)

    def data(self):
        prepare = ["data", "prepare", "text.txt", "--document-separator",
                   "line", "--val-share", "0.3", "--out"]
        self.damage(
            "data",
            [self.folder / "data" / name
             for name in ("meta.json", "train.bin", "val.bin")],
            [["data", "inspect", "data"],
             ["train", "gpt.toml", "--out", "o/run"],
             [*prepare, "data"]])  # puts back what is damaged, or refuses

    def text(self):
        self.damage(
            "text", [self.folder / "words.txt"],
            [["data", "prepare", "words.txt", "--val-share", "0.3", "--out",
              f"o/{tokens}_{separator}", "--tokens", tokens,
              "--document-separator", separator]
             for tokens in ("chars96", "bytes")
             for separator in ("blank-line", "line")])

    def checkpoint(self):
        if "generate" not in self.commands:
            print("checkpoint: left out, the program has no `generate`")
            return
        newest = max((self.folder / "run/checkpoints").glob("step_*"))
        self.damage("checkpoint", sorted(newest.iterdir()),
                    [["generate", newest, "--tokens", "2"]])

    def config(self):
        if "train" not in self.commands:
            print("config: left out, the program has no `train`")
            return
        self.damage("config", [self.folder / "gpt.toml"],
                    [["train", "gpt.toml", "--out", "o/run"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="einforge-abuse-")
    try:
        abuse = Abuse(options, folder)
        abuse.make_world()
        parts = {"streams": abuse.streams, "hangup": abuse.hangup,
                 "csv": abuse.csv, "store": abuse.store_, "data": abuse.data,
                 "text": abuse.text, "checkpoint": abuse.checkpoint, "config": abuse.config}
        for name, part in parts.items():
            if not options.only or name in options.only:
                before = abuse.runs, abuse.faults
                part()
                print(f"{name}: {abuse.runs - before[0]} runs, "
                      f"{abuse.faults - before[1]} faults", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{abuse.runs} runs, {abuse.faults} faults, slowest "
          f"{abuse.slowest[0]:.1f} s: {abuse.slowest[1][:200]}")
    return 1 if abuse.faults else 0


if __name__ == "__main__":
    sys.exit(main())
