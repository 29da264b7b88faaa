#!/usr/bin/env python3
"""Times a search's start, report and fit on a store of 10,000 trials.

    benchmarks/large_store.py PROGRAM [--trials 10000] [--points 31] [--json FILE]

The search queues its own trials, in a folder that is removed at the end; they
are then filled with curves that follow a known law. Prints wall and CPU seconds
and peak memory of

- `start`: from the command to the first new step of the one trial left,
- `queue`: the same of an empty folder, where all trials are new,
- `report` and `fit` of all trials,

and exits 1 where one of them takes over 10 s of wall time or 1 GB.
"""

import argparse
import json
import math
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import provenance

SECONDS = 10
BYTES = 1e9

# 20 structures x 10 widths x 10 rates x seeds.
CONFIG = """out = "{out}"
structures = [{structures}]
widths = [16, 24, 32, 40, 48, 56, 64, 72, 80, 96]
learning_rates = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3, 1e-2]
seeds = [{seeds}]
curve_points = 2
bootstrap = 1000
[budget]
tokens = 2_000
[train]
device = "cpu"
eval_batches = 1
[train.model]
kind = "mlp"
layers = 1
[train.data]
batch_size = 32
"""
STRUCTURES = ["dense", "monarch", "kronecker"] + [
    f"{kind}:{rate}" for kind, rates in (
        ("low_rank", (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("btt", (0.1, 0.2, 0.25, 0.3, 0.4, 0.45)),
        ("tensor_train", (0.1, 0.2, 0.25, 0.3, 0.4, 0.45)))
    for rate in rates]


def read(store, query):
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as database:
            return database.execute(query).fetchall()
    except sqlite3.OperationalError:  # not there yet
        return []


class Timed:
    """A command, its wall and CPU seconds and its peak memory."""

    def __init__(self, words, log):
        self.start = time.monotonic()
        self.log = open(log, "wb")
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "EINFORGE_PROGRESS": "0",
                 "OMP_NUM_THREADS": "1"})

    def has_ended(self):
        # Not poll(), which would take the usage with it.
        return os.waitid(os.P_PID, self.process.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def until(self, ready):
        """Usage until `ready`, which is polled; the command is then stopped,
        and what it takes to stop counts as CPU time."""
        while not ready() and not self.has_ended():
            time.sleep(0.05)
        wall = time.monotonic() - self.start
        os.kill(self.process.pid, signal.SIGINT)  # not send_signal, which polls
        return {**self.end((0, 130)), "wall_seconds": round(wall, 2)}

    def end(self, codes=(0,)):
        _, status, usage = os.wait4(self.process.pid, 0)
        wall = time.monotonic() - self.start
        self.log.close()
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        if code not in codes:
            sys.exit(f"exit {code}: {pathlib.Path(self.log.name).read_text()}")
        return {"wall_seconds": round(wall, 2),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_memory_bytes": usage.ru_maxrss * 1024}  # Linux: KiB


def fill(store, points):
    """Curves of a known law for all trials but the last; a store of version 2,
    which has no checksums: the program brings it up to date."""
    rng = random.Random(0)
    with sqlite3.connect(store) as database:
        for table, column in (
                ("trials", "checksum"), ("trials", "fence"),
                ("trials", "lease"), ("curves", "checksum"),
                ("metadata", "checksum")):
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 2")
        rows = database.execute(
            "SELECT sequence, structure, parameters, learning_rate "
            "FROM trials ORDER BY sequence").fetchall()
        database.execute("DELETE FROM curves")
        for sequence, structure, parameters, rate in rows[:-1]:
            flops = 6 * parameters * 2_000
            factor = 1 + STRUCTURES.index(structure) / len(STRUCTURES)
            offset = (0.01 * rng.gauss(0, 1)
                      + 0.1 * math.log(rate / 4e-3) ** 2)
            curve = []
            for i in range(points):
                share = i / (points - 1)
                done = max(share, 1e-3)
                # Hoffmann's form; runs of these sizes touch their law.
                loss = (0.2 + 3 * parameters ** -0.3
                        + 3 * factor * (2_000 * done) ** -0.4)
                loss *= math.exp(offset + 0.002 * rng.gauss(0, 1))
                curve.append((sequence, round(share * 1000), i * 70,
                              flops * share, share * 30, loss, loss))
            database.executemany(
                "INSERT INTO curves VALUES (?, ?, ?, ?, ?, ?, ?)", curve)
            database.execute(
                "UPDATE trials SET status = 'done', final_loss = ?, "
                "flops = ?, seconds = 30, worker = 'host:1:2', rung = 1 "
                "WHERE sequence = ?", (curve[-1][-1], flops, sequence))
    database.close()
    return len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--points", type=int, default=31)
    parser.add_argument("--json")
    options = parser.parse_args()
    program = str(pathlib.Path(options.program).resolve())
    seeds = max(1, round(options.trials / (len(STRUCTURES) * 100)))
    with tempfile.TemporaryDirectory(prefix="einforge-large-") as name:
        folder = pathlib.Path(name)
        (folder / "search.toml").write_text(CONFIG.format(
            out=folder / "search", seeds=", ".join(map(str, range(seeds))),
            structures=", ".join(f'"{s}"' for s in STRUCTURES)))
        store = folder / "search" / "trials.db"
        log = folder / "log"

        def search():
            return Timed([program, "search", str(folder / "search.toml"),
                          "--workers", "1"], log)

        def one_runs():
            return read(store, "SELECT 1 FROM trials WHERE status = 'running'")

        times = {"queue": search().until(one_runs)}
        trials = fill(store, options.points)
        times["upgrade"] = Timed(
            [program, "report", str(store), "--bootstrap", "0", "--out",
             str(folder / "upgrade.html")], log).end()
        times["start"] = search().until(one_runs)
        times["report"] = Timed(
            [program, "report", str(store), "--out",
             str(folder / "report.html")], log).end()
        times["fit"] = Timed([program, "fit", str(store)], log).end()
        sizes = {path.name: path.stat().st_size
                 for path in (store, folder / "report.html")}
    result = {**provenance.provenance(program), "trials": trials,
              "points": options.points, "times": times, "bytes": sizes,
              "load": os.getloadavg()}
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        pathlib.Path(options.json).write_text(text + "\n")
    over = [what for what, used in times.items()
            if used["wall_seconds"] > SECONDS
            or used.get("peak_memory_bytes", 0) > BYTES]
    if over:
        print(f"over {SECONDS} s or {BYTES:.0e} bytes: {', '.join(over)}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
