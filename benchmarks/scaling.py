#!/usr/bin/env python3
"""Tokens per second of `einforge train` over the GPUs of one host.

For each width and structure, 1, 2, 4 and 8 processes with an equal batch per
process (weak scaling) and with an equal batch in all (strong), with and without
the optimiser's state in shards. Runs of one process come first, two at a time
on two GPUs. Writes scaling.json and scaling.svg; started again it goes on with
what is missing. A search of many trials, one GPU each, comes last (--trials).

    scripts/scaling.sh --out results/h200x8 --minutes 28
    scripts/scaling.sh --device cpu --processes 1 2 --widths 64 --layers 2 \\
        --batch 16 --trials 4 --out runs/scaling

Of a run: the median tokens per second after the first third of its steps; the
efficiency, that over N times one process's; the most memory that tensors took
on one GPU (of rank 0); and from a profile of rank 0 the share of the step in
which NCCL ran and nothing else did (unknown on a CPU). Mode `plain` trains one
process without CUDA graphs once more, as several have none.
"""

import argparse
import concurrent.futures
import html
import json
import math
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

from provenance import provenance

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Sharded: the optimiser's state. Plain: one process without CUDA graphs, which
# several do not use.
MODES = ["weak", "weak-sharded", "strong", "strong-sharded", "plain"]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--program", type=path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--out", type=path, default=path("runs/scaling"))
    parser.add_argument("--work", type=path, default=path("runs/scaling_work"),
                        help="data and runs; nothing there is kept")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--processes", nargs="+", type=int,
                        default=[1, 2, 4, 8])
    parser.add_argument("--widths", nargs="+", type=int, default=[1024, 2048])
    parser.add_argument("--structures", nargs="+",
                        default=["dense", "monarch", "btt_moe:E=16,k=2"])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", nargs="+", type=int, default=[256],
                        help="sequences per process (weak), in all (strong); "
                        "for each width,\nor one for all")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log-every", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES,
                        help="the order too")
    parser.add_argument("--trials", type=int, default=16,
                        help="of the search, one process each; 0: none")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="begin nothing after so many")
    parser.add_argument("--limit", type=float, default=600,
                        help="seconds of one run")
    options = parser.parse_args()
    options.program = options.program.resolve()
    if not options.program.exists():
        parser.error(f"--program: expected a file; got '{options.program}'")
    if len(options.batch) == 1:
        options.batch *= len(options.widths)
    if len(options.batch) != len(options.widths):
        parser.error("--batch: expected one, or one for each of --widths")
    if 1 not in options.processes:
        parser.error("--processes: expected 1 among them, to compare with")
    return options


def exposed_share(trace):
    """Of a Chrome trace: the share of the time between its first and last
    kernel in which NCCL's kernels ran and no other did; None without any."""
    spans = {True: [], False: []}
    for event in trace.get("traceEvents", []):
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            start = float(event["ts"])
            spans["nccl" in event["name"].lower()].append(
                (start, start + float(event["dur"])))
    if not spans[True]:
        return None
    everything = spans[True] + spans[False]
    whole = (max(end for _, end in everything) -
             min(start for start, _ in everything))
    return (length(everything) - length(spans[False])) / whole


def length(spans):
    """Of the union."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def children(parent):
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{parent}\n" in status.read_text():
                found.append(int(status.parent.name))
        except OSError:
            pass  # it has ended
    return found


class Scaling:
    def __init__(self, options):
        self.options = options
        self.deadline = time.monotonic() + 60 * options.minutes
        self.file = options.out / "scaling.json"
        self.report = {"rows": [], "search": []}
        if self.file.exists():
            self.report = json.loads(self.file.read_text())
        self.report.update(provenance(options.program))
        if options.device == "cuda":
            self.report["gpus"] = self.gpus()

    @staticmethod
    def gpus():
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, check=False)
        return done.stdout.strip().splitlines()

    def call(self, *arguments, limit=None, **environment):
        """Its output. Of a run that takes too long nothing is left."""
        with subprocess.Popen(
                [self.options.program, *map(str, arguments)], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, **environment}) as process:
            try:
                output, errors = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                for child in children(process.pid):
                    os.kill(child, signal.SIGKILL)
                process.kill()
                process.communicate()
                raise RuntimeError(f"not over after {limit:.0f} s") from None
        if process.returncode != 0:
            lines = errors.strip().splitlines() or ["no output"]
            raise RuntimeError(lines[-1])
        return output

    def prepare(self):
        options = self.options
        options.out.mkdir(parents=True, exist_ok=True)
        options.work.mkdir(parents=True, exist_ok=True)
        data = options.work / "data"
        if not (data / "meta.json").exists():
            self.call("data", "prepare", ROOT / "examples/data", "--tokens",
                      "chars96", "--out", data)
        train = {
            "model": {"layers": options.layers, "context": options.context,
                      "head_width": min(64, *options.widths)},
            "data": {"path": str(data)}, "device": options.device,
            "steps": options.steps, "log_every": options.log_every,
            "eval_every": 0,
            "eval_batches": 1, "checkpoint_every": -1}
        (options.work / "train.json").write_text(json.dumps(train))
        (options.work / "search.json").write_text(json.dumps({
            "train": {**train, "log_every": 1000}, "structures": ["dense"],
            "widths": [min(options.widths)], "bootstrap": 0, "curve_points": 1,
            "budget": {"tokens": options.batch[0] * options.context *
                       options.steps}}))

    def cases(self):
        options = self.options
        for mode in options.modes:
            kind, _, sharded = mode.partition("-")
            for count in options.processes:
                for width in options.widths:
                    for structure in options.structures:
                        # One process trains the same in all other modes.
                        if (count == 1) == (mode == "plain") or (
                                count == 1 and mode == options.modes[0]):
                            yield {"width": width, "structure": structure,
                                   "processes": count, "kind": kind,
                                   "sharded_optimizer": bool(sharded)}

    def train(self, case, gpu=None):
        """The row of a case; on one GPU among several by its number."""
        options = self.options
        run = options.work / f"run_{gpu or 0}"
        shutil.rmtree(run, ignore_errors=True)
        count = case["processes"]
        batch = options.batch[options.widths.index(case["width"])] * (
            count if case["kind"] == "weak" else 1)
        arguments = [
            "train", options.work / "train.json", "--out", run, "--set",
            f"model.structure.all={case['structure']}", "--set",
            f"model.width={case['width']}", "--set",
            f"data.batch_size={batch}"]
        if count > 1:
            arguments += ["--processes", count, "--profile=3"]
        if case["sharded_optimizer"]:
            arguments.append("--shard-optimizer")
        if case["kind"] == "plain":
            arguments += ["--set", "cuda_graph=false"]
        visible = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        row = {**case, "batch": batch}
        begin = time.monotonic()
        try:
            self.call(*arguments, limit=options.limit, **visible)
        except RuntimeError as error:
            return {**row, "error": str(error)}
        log = [json.loads(line) for line in
               (run / "log.jsonl").read_text().splitlines()]
        late = [r for r in log if r["step"] > options.steps / 3]
        exposed = None
        if count > 1:
            exposed = exposed_share(
                json.loads((run / "profile.json").read_text()))
        return {
            **row,
            "tokens_per_second": statistics.median(
                r["tokens_per_second"] for r in late),
            "peak_memory_bytes": log[-1].get("peak_memory_bytes"),
            "exposed_communication": exposed,
            "seconds_with_start": time.monotonic() - begin}

    def search(self, workers):
        """Trials per second; seeds differ alone, so that all cost the same."""
        folder = self.options.work / "search"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [
            "search", self.options.work / "search.json", "--out", folder,
            "--quiet", "--workers", workers, "--set",
            f"seeds={list(range(self.options.trials))}"]
        if self.options.device == "cuda":
            arguments += ["--device", ",".join(
                f"cuda:{i}" for i in range(workers))]
        start = time.monotonic()
        try:
            self.call(*arguments)
        except RuntimeError as error:
            return {"workers": workers, "error": str(error)}
        return {"workers": workers, "trials": self.options.trials,
                "seconds": time.monotonic() - start}

    def write(self):
        for row in self.report["rows"]:
            one = self.one(row)
            if one and "tokens_per_second" in row:
                row["efficiency"] = row["tokens_per_second"] / (
                    row["processes"] * one)
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.report, indent=1) + "\n")
        new.replace(self.file)
        (self.options.out / "scaling.svg").write_text(picture(self.report))

    def one(self, row):
        return next((r.get("tokens_per_second") for r in self.report["rows"]
                     if r["processes"] == 1 and r["kind"] != "plain" and
                     r["width"] == row["width"] and
                     r["structure"] == row["structure"]), None)

    def run(self):
        self.prepare()
        keys = ("width", "structure", "processes", "kind", "sharded_optimizer")
        done = {tuple(row[key] for key in keys)
                for row in self.report["rows"] if "error" not in row}
        self.report["rows"] = [
            row for row in self.report["rows"] if "error" not in row]
        cases = [case for case in self.cases()
                 if tuple(case[key] for key in keys) not in done]
        gpus = range(min(2, len(self.report.get("gpus", []))))
        while cases:
            if time.monotonic() > self.deadline:
                print("scaling: out of time; the same command goes on")
                return
            batch = [cases.pop(0)]
            while (cases and len(batch) < len(gpus) and
                   batch[0]["processes"] == cases[0]["processes"] == 1):
                batch.append(cases.pop(0))
            if batch[0]["processes"] > 1:
                rows = [self.train(batch[0])]
            else:
                with concurrent.futures.ThreadPoolExecutor(
                        len(batch)) as pool:
                    rows = list(pool.map(
                        self.train, batch, gpus or [None]))
            self.report["rows"] += rows
            self.write()
            for row in rows:
                print(line(row), flush=True)
        for workers in self.options.processes if self.options.trials else []:
            if any(s["workers"] == workers for s in self.report["search"]):
                continue
            if time.monotonic() > self.deadline:
                print("scaling: out of time; the same command goes on")
                return
            self.report["search"].append(self.search(workers))
            self.write()
            print(f"search, {workers} at a time: "
                  f"{self.report['search'][-1]}", flush=True)


def line(row):
    sharded = "sharded" if row["sharded_optimizer"] else ""
    head = (f"{row['structure']:18} {row['width']:5} x{row['processes']} "
            f"{row['kind']:6} {sharded:7}")
    if "error" in row:
        return f"{head} {row['error']}"
    efficiency = row.get("efficiency")
    exposed = row["exposed_communication"]
    memory = row["peak_memory_bytes"]
    return (f"{head} {row['tokens_per_second']:12,.0f} tokens/s"
            + (f", {efficiency:.2f} per process" if efficiency else "")
            + (f", {memory / 1e9:.1f} GB" if memory else "")
            + ("" if exposed is None else f", exposed {exposed:.1%}"))


def picture(report):
    """Efficiency by processes: a panel for weak and for strong scaling, a line
    for each structure and width; dashed with shards."""
    rows = [row for row in report["rows"]
            if row.get("efficiency") and row["kind"] != "plain"]
    counts = sorted({row["processes"] for row in rows})
    names = sorted({(row["structure"], row["width"]) for row in rows})
    colours = ["#2456c7", "#b3372f", "#1a7f4b", "#8a5a00", "#6b3fa0", "#0b7285"]
    top, panel = 40 + 18 * len(names), 300
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * panel + 60}" '
           f'height="{top + 260}" font-family="system-ui, sans-serif" '
           'font-size="12"><rect width="100%" height="100%" fill="#fff"/>']
    for i, (structure, width) in enumerate(names):
        out.append(f'<text x="20" y="{24 + 18 * i}" fill="{colours[i % 6]}">'
                   f"{html.escape(structure)}, width {width}</text>")
    most = max([1.0] + [row["efficiency"] for row in rows])
    for place, kind in enumerate(("weak", "strong")):
        left = 50 + place * panel
        x = lambda n: left + (panel - 70) * (
            math.log(n / counts[0]) / (math.log(counts[-1] / counts[0]) or 1))
        y = lambda e: top + 210 - 190 * e / most
        out.append(f'<text x="{left}" y="{top}" font-weight="600">{kind}: '
                   "speed per process</text>")
        for value in (0, 0.5, 1):
            out.append(f'<path d="M{left} {y(value):.0f}h{panel - 70}" '
                       'stroke="#ddd"/>'
                       f'<text x="{left - 26}" y="{y(value) + 4:.0f}">{value}'
                       "</text>")
        for n in counts:
            out.append(f'<text x="{x(n):.0f}" y="{top + 232}" '
                       f'text-anchor="middle">{n}</text>')
        for i, name in enumerate(names):
            for shard in (False, True):
                own = sorted(
                    (row["processes"], row["efficiency"]) for row in rows
                    if (row["structure"], row["width"]) == name and
                    (row["processes"] == 1 or
                     (row["kind"] == kind and
                      row["sharded_optimizer"] == shard)))
                points = " ".join(f"{x(n):.1f},{y(e):.1f}" for n, e in own)
                dash = ' stroke-dasharray="4 3"' if shard else ""
                out.append(f'<polyline points="{points}" fill="none" '
                           f'stroke="{colours[i % 6]}"{dash}/>')
    out.append("</svg>\n")
    return "\n".join(out)


if __name__ == "__main__":
    try:
        Scaling(parse_arguments()).run()
    except RuntimeError as failure:
        sys.exit(f"scaling: {failure}")
