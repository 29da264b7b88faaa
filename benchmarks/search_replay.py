#!/usr/bin/env python3
"""How much compute schedulers spend until they find the best trial.

The table has trials that were really trained, of all structures, widths and
rates of a grid; schedulers search it without training. Each is charged for
what it would have trained, and found the best when a whole trial has ended
whose compute multiplier over dense is within 2% of the best in the table.

    einforge data prepare examples/data --tokens chars96 --out runs/replay/data
    einforge search benchmarks/search/replay.toml
    einforge search benchmarks/search/replay_dense.toml
    python3 benchmarks/search_replay.py table runs/replay runs/replay_dense \\
        --out results/cpu/search_table.csv
    python3 benchmarks/search_replay.py play results/cpu/search_table.csv \\
        --replay build/release/bin/search_replay \\
        --out results/cpu/search_replay.json

`play` goes on where it was: what the output file has is not played again.

The second table, search_check, is of check.toml and check_dense.toml; its text
is none of the project's, 6 MB of one paragraph a line (--document-separator
line). The third, search_third, is of third.toml; its text is the project's C++
as of a commit, in bytes:

    git ls-files 'src/*.cpp' 'src/*.h' | LC_ALL=C sort | xargs cat |
        einforge data prepare - --tokens bytes --out runs/third/data

A machine that is busy gives no seconds: `--set objective=seconds --set
scheduler.kind=model` with another folder times each model when it is idle, and
`table --speeds` takes its numbers.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import math
import pathlib
import re
import sqlite3
import statistics
import subprocess
import sys

COLUMNS = ["structure", "model", "learning_rate", "step", "flops", "seconds",
           "loss"]
RUNGS = 3
WITHIN = 1.02
OURS = ["model", "asha", "halving", "random"]
OPTUNA = {"optuna_tpe": "TPESampler", "optuna_gp": "GPSampler"}
OTHERS = [*OPTUNA, "ax"]


# ---- the table ----


def read_speeds(folder) -> dict:
    """FLOP/s by structure and model, as a search in seconds measured them."""
    if folder is None:
        return {}
    store = sqlite3.connect(f"file:{folder / 'trials.db'}?mode=ro", uri=True)
    [(text,)] = store.execute(
        "SELECT value FROM metadata WHERE key = 'speeds'").fetchall()
    return json.loads(text)


def read_store(folder: pathlib.Path, speeds: dict):
    store = sqlite3.connect(f"file:{folder / 'trials.db'}?mode=ro", uri=True)
    metadata = {k: json.loads(v) for k, v in
                store.execute("SELECT key, value FROM metadata")}
    rows = store.execute(
        "SELECT structure, model, learning_rate, step, c.flops, c.seconds, "
        "val_loss FROM trials t JOIN curves c ON c.trial = t.sequence "
        "WHERE status = 'done' AND val_loss IS NOT NULL "
        "ORDER BY t.sequence, step").fetchall()
    # What a step takes depends on the structure and the width alone; other
    # programs on the machine slowed down single trials.
    ends = {}
    for structure, model, rate, step, _, seconds, _ in rows:
        ends.setdefault((structure, model), {})[rate] = seconds / max(step, 1)
    per_step = {kind: statistics.median(rates.values())
                for kind, rates in ends.items()}

    def seconds(structure, model, step, flops):
        speed = speeds.get(f"{structure} {model}")
        return flops / speed if speed else step * per_step[structure, model]

    return metadata, [
        (structure, model, rate, step, flops,
         seconds(structure, model, step, flops), loss)
        for structure, model, rate, step, flops, _, loss in rows]


def make_table(options) -> None:
    speeds = read_speeds(options.speeds)
    with open(options.out, "w", newline="") as file:
        for folder in options.folders:
            metadata, _ = read_store(folder, {})
            hardware = {
                key: value
                for key, value in metadata.get("hardware", {}).items()
                if key not in ("host", "hostname")}
            for key, value in (("search", metadata.get("name")),
                               ("hardware", hardware),
                               ("versions", metadata.get("versions")),
                               ("seeds", metadata.get("seeds"))):
                file.write(f"# {key}: {json.dumps(value)}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for folder in options.folders:
            for row in read_store(folder, speeds)[1]:
                writer.writerow([f"{x:.6g}" if isinstance(x, float) else x
                                 for x in row])


class Table:
    """Trials of the grid, and what dense reaches at any compute."""

    def __init__(self, path, metric: str):
        lines = [x for x in open(path) if not x.startswith("#")]
        self.rows = [
            (r["structure"], r["model"], float(r["learning_rate"]),
             float(r["flops"]), float(r[metric]), float(r["loss"]))
            for r in csv.DictReader(lines)]
        curves = {}
        for i, row in enumerate(self.rows):
            curves.setdefault(row[:3], []).append(i)
        # Long dense runs follow with the same names: only for the frontier.
        self.trials = {}
        for key, points in curves.items():
            end = next((k for k in range(1, len(points))
                        if self.rows[points[k]][3] <
                        self.rows[points[k - 1]][3]), len(points))
            self.trials[key] = points[:end]
        self.frontier = self._frontier()
        self.best = max(self.multiplier(x[-1]) for x in self.trials.values())

    def _frontier(self):
        """Lower hull of dense, (ln compute, ln loss)."""
        points = sorted((math.log(r[4]), math.log(r[5])) for r in self.rows
                        if r[0] == "dense" and r[4] > 0)
        hull = []
        for point in points:
            if hull and point[1] >= hull[-1][1]:
                continue
            while len(hull) > 1 and (
                    (hull[-1][0] - hull[-2][0]) * (point[1] - hull[-2][1])
                    <= (hull[-1][1] - hull[-2][1]) * (point[0] - hull[-2][0])):
                hull.pop()
            hull.append(point)
        return hull

    def multiplier(self, row: int) -> float:
        """The compute at which dense has the row's loss over the row's own.

        Beyond what dense was trained to, as it fell over the last factor of 4.
        """
        compute, loss = math.log(self.rows[row][4]), math.log(self.rows[row][5])
        hull = self.frontier
        k = next((k for k in range(1, len(hull)) if hull[k][1] <= loss), None)
        if k is not None:
            (x0, y0), (x1, y1) = hull[k - 1], hull[k]
        else:
            (x1, y1) = hull[-1]
            (x0, y0) = max((p for p in hull if p[0] <= x1 - math.log(4)),
                           default=hull[0])
        return math.exp(x0 + (loss - y0) * (x1 - x0) / (y1 - y0) - compute)

    def is_best(self, row: int) -> bool:
        return self.multiplier(row) * WITHIN >= self.best


class Judge:
    """Charges for steps until the best is found, in mean whole trials."""

    def __init__(self, table: Table):
        self.table = table
        self.unit = statistics.fmean(
            table.rows[x[-1]][4] for x in table.trials.values())
        self.owner = {row: key for key, x in table.trials.items() for row in x}

    def cost_until_best(self, steps) -> float:
        spent = 0.0
        reached = {}
        for row, rung in steps:
            key = self.owner[row]
            compute = self.table.rows[row][4]
            spent += max(0.0, compute - reached.get(key, 0.0))
            reached[key] = max(compute, reached.get(key, 0.0))
            if rung == RUNGS - 1 and self.table.is_best(row):
                return spent / self.unit
        return math.inf


# ---- Others, which choose whole trials by ask and tell ----


class Space:
    def __init__(self, table: Table):
        self.table = table

        def number(text):
            found = re.search(r"\d+", str(text))
            return (int(found.group()) if found else 0, str(text))

        keys = table.trials
        self.structures = sorted({key[0] for key in keys})
        self.models = sorted({key[1] for key in keys}, key=number)
        self.rates = sorted({key[2] for key in keys})

    def last_row(self, structure, model: int, rate: float):
        points = self.table.trials.get((structure, self.models[model], rate))
        return None if points is None else points[-1]

    def value(self, row) -> float:
        return math.log(self.table.multiplier(row))


class OptunaStudy:
    def __init__(self, space: Space, sampler: str, seed: int):
        import optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.study = optuna.create_study(
            direction="maximize",
            sampler=getattr(optuna.samplers, sampler)(seed=seed))

    def ask(self):
        trial = self.study.ask()
        rates = self.space.rates
        return trial, (
            trial.suggest_categorical("structure", self.space.structures),
            trial.suggest_int("model", 0, len(self.space.models) - 1),
            trial.suggest_float("rate", rates[0], rates[-1], log=True))

    def tell(self, trial, value) -> None:
        import optuna
        if value is None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, value)


class AxExperiment:
    def __init__(self, space: Space, seed: int):
        import logging
        import warnings
        import torch
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        torch.manual_seed(seed)
        self.client = Client(random_seed=seed)
        self.client.configure_experiment(parameters=[
            ChoiceParameterConfig(
                name="structure", values=space.structures,
                parameter_type="str", is_ordered=False),
            RangeParameterConfig(
                name="model", bounds=(0, len(space.models) - 1),
                parameter_type="int"),
            RangeParameterConfig(
                name="rate", bounds=(space.rates[0], space.rates[-1]),
                parameter_type="float", scaling="log")])
        self.client.configure_optimization(objective="value")

    def ask(self):
        [(index, x)] = self.client.get_next_trials(max_trials=1).items()
        return index, (x["structure"], x["model"], x["rate"])

    def tell(self, index, value) -> None:
        if value is None:
            self.client.mark_trial_failed(index)
        else:
            self.client.complete_trial(index, raw_data={"value": value})


def play_other(name: str, space: Space, seed: int, most: int):
    optimiser = (AxExperiment(space, seed) if name == "ax"
                 else OptunaStudy(space, OPTUNA[name], seed))
    steps = []
    for _ in range(most):
        trial, (structure, model, rate) = optimiser.ask()
        row = space.last_row(structure, model, min(
            space.rates, key=lambda x: abs(math.log(x / rate))))
        if row is None:
            optimiser.tell(trial, None)
            continue
        optimiser.tell(trial, space.value(row))
        steps.append((row, RUNGS - 1))
        if space.table.is_best(row):
            break
    return steps


def play_ours(options, kind: str, metric: str, table: Table):
    last = [x[-1] for x in table.trials.values() if table.is_best(x[-1])]
    lines = subprocess.run(
        [options.replay, options.config, options.table, kind,
         str(options.seeds), metric, ",".join(map(str, last))],
        check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


# ---- what they come to ----


def quantile(values, share: float) -> float:
    """Linear between the ordered values; infinite ones as they are."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
    return low if low == high else low + (high - low) * (at % 1)


def summary(costs) -> dict:
    """JSON has no infinity: null where the best was not found."""
    def number(x):
        return round(x, 3) if math.isfinite(x) else None
    return {"median": number(statistics.median(costs)),
            "from": number(quantile(costs, 0.05)),
            "to": number(quantile(costs, 0.95)),
            "costs": [number(x) for x in costs]}


def play(options) -> None:
    digest = hashlib.sha256(
        pathlib.Path(options.table).read_bytes()).hexdigest()
    result = {"command": "benchmarks/search_replay.py play",
              "table": digest, "seeds": options.seeds,
              "within": round(WITHIN - 1, 3), "metrics": {}}
    if options.out.exists():
        before = json.loads(options.out.read_text())
        if (before["table"], before["seeds"]) == (digest, options.seeds):
            result = before

    def save():
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    for metric in options.metrics:
        table = Table(options.table, metric)
        judge, space = Judge(table), Space(table)
        best = max(table.trials.values(), key=lambda x: table.multiplier(x[-1]))
        section = result["metrics"].setdefault(metric, {"schedulers": {}})
        section.update(
            trials=len(table.trials), best_multiplier=round(table.best, 4),
            best=list(table.rows[best[-1]][:3]),
            good=sum(map(table.is_best, (x[-1] for x in
                                         table.trials.values()))))
        known = section["schedulers"]
        for name in options.schedulers:
            if name in options.again:
                known.pop(name, None)
            if name in OURS and name not in known:
                runs = play_ours(options, name, metric, table)
                known[name] = summary([*map(judge.cost_until_best, runs)])
            elif name in OTHERS:
                package = "ax-platform" if name == "ax" else "optuna"
                result[package] = importlib.metadata.version(package)
                costs = [math.inf if x is None else x
                         for x in known.get(name, {}).get("costs", [])]
                for seed in range(len(costs), options.seeds):
                    costs.append(judge.cost_until_best(
                        play_other(name, space, seed, options.most)))
                    known[name] = summary(costs)
                    save()
            save()
            found = known[name]
            print(metric, name, found["median"], found["from"], found["to"],
                  flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="from searches' folders")
    table.add_argument("folders", nargs="+", type=pathlib.Path)
    table.add_argument("--out", required=True)
    table.add_argument("--speeds", type=pathlib.Path,
                       help="folder of a search with objective seconds, which "
                       "timed each structure and width by itself")
    game = commands.add_parser("play", help="schedulers on the table")
    game.add_argument("table")
    game.add_argument("--config", default="benchmarks/search/replay.toml")
    game.add_argument("--replay", default="build/release/bin/search_replay")
    game.add_argument("--seeds", type=int, default=20)
    game.add_argument("--most", type=int, default=400,
                      help="trials of the other optimisers at most")
    game.add_argument("--metrics", nargs="+", default=["flops", "seconds"])
    game.add_argument("--schedulers", nargs="*", default=[*OURS, *OTHERS],
                      choices=[*OURS, *OTHERS])
    game.add_argument("--again", nargs="*", default=[],
                      help="schedulers to play though the output has them")
    game.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    make_table(options) if options.command == "table" else play(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
