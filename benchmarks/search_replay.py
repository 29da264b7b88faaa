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
"""

import argparse
import csv
import json
import math
import pathlib
import sqlite3
import statistics
import subprocess
import sys

COLUMNS = ["structure", "model", "learning_rate", "step", "flops", "seconds",
           "loss"]
RUNGS = 3
WITHIN = 1.02


# ---- the table ----


def read_store(folder: pathlib.Path):
    store = sqlite3.connect(f"file:{folder / 'trials.db'}?mode=ro", uri=True)
    metadata = {k: json.loads(v) for k, v in
                store.execute("SELECT key, value FROM metadata")}
    rows = store.execute(
        "SELECT structure, model, learning_rate, step, c.flops, c.seconds, "
        "val_loss FROM trials t JOIN curves c ON c.trial_id = t.id "
        "WHERE status = 'done' AND val_loss IS NOT NULL "
        "ORDER BY t.sequence, step").fetchall()
    return metadata, rows


def make_table(options) -> None:
    with open(options.out, "w", newline="") as file:
        for folder in options.folders:
            metadata, rows = read_store(folder)
            hardware = metadata.get("hardware", {})
            for key, value in (("search", metadata.get("name")),
                               ("hardware", hardware),
                               ("versions", metadata.get("versions")),
                               ("config", metadata.get("search"))):
                file.write(f"# {key}: {json.dumps(value)}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for folder in options.folders:
            for row in read_store(folder)[1]:
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
        self.metric = metric
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

        Beyond what dense was trained to, along its last segment.
        """
        compute, loss = math.log(self.rows[row][4]), math.log(self.rows[row][5])
        hull = self.frontier
        k = next((k for k in range(1, len(hull)) if hull[k][1] <= loss),
                 len(hull) - 1)
        (x0, y0), (x1, y1) = hull[k - 1], hull[k]
        return math.exp(x0 + (loss - y0) * (x1 - x0) / (y1 - y0) - compute)


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
            if (rung == RUNGS - 1 and
                    self.table.multiplier(row) * WITHIN >= self.table.best):
                return spent / self.unit
        return math.inf


# ---- other optimisers, which choose whole trials by ask and tell ----


class Space:
    def __init__(self, table: Table):
        self.table = table
        self.axes = [sorted({key[i] for key in table.trials}, key=str)
                     for i in range(3)]

    def last_row(self, structure, model, rate):
        points = self.table.trials.get((structure, model, rate))
        return None if points is None else points[-1]

    def value(self, row) -> float:
        return math.log(self.table.multiplier(row))


def play_optuna(space: Space, sampler, trials: int):
    import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rates = space.axes[2]
    steps = []
    for _ in range(trials):
        trial = study.ask()
        rate = trial.suggest_float("rate", min(rates), max(rates), log=True)
        row = space.last_row(
            trial.suggest_categorical("structure", space.axes[0]),
            trial.suggest_categorical("model", space.axes[1]),
            min(rates, key=lambda x: abs(math.log(x / rate))))
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, space.value(row))
        steps.append((row, RUNGS - 1))
        if space.table.multiplier(row) * WITHIN >= space.table.best:
            break
    return steps


def play_ax(space: Space, seed: int, trials: int):
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig
    client = Client(random_seed=seed)
    client.configure_experiment(parameters=[
        ChoiceParameterConfig(
            name=name, values=values, parameter_type=kind, is_ordered=ordered)
        for name, values, kind, ordered in (
            ("structure", space.axes[0], "str", False),
            ("model", space.axes[1], "str", False),
            ("rate", space.axes[2], "float", True))])
    client.configure_optimization(objective="multiplier")
    steps = []
    for _ in range(trials):
        for index, x in client.get_next_trials(max_trials=1).items():
            row = space.last_row(x["structure"], x["model"], x["rate"])
            if row is None:
                client.mark_trial_failed(index)
                continue
            client.complete_trial(
                index, raw_data={"multiplier": space.value(row)})
            steps.append((row, RUNGS - 1))
            if space.table.multiplier(row) * WITHIN >= space.table.best:
                return steps
    return steps


def play_ours(options, table_path, kind: str, metric: str):
    lines = subprocess.run(
        [options.replay, options.config, table_path, kind, str(options.seeds),
         metric], check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def quantile(values, share: float) -> float:
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = ordered[math.floor(at)]
    return low + (ordered[math.ceil(at)] - low) * (at % 1) if at % 1 else low


def play(options) -> None:
    result = {"command": "benchmarks/search_replay.py play",
              "seeds": options.seeds, "within": WITHIN - 1, "metrics": {}}
    for metric in options.metrics:
        table = Table(options.table, metric)
        judge, space = Judge(table), Space(table)
        best = max(table.trials.values(), key=lambda x: table.multiplier(x[-1]))
        section = {
            "trials": len(table.trials), "best_multiplier": table.best,
            "best": list(table.rows[best[-1]][:3]),
            "good": sum(table.multiplier(x[-1]) * WITHIN >= table.best
                        for x in table.trials.values()),
            "schedulers": {}}
        result["metrics"][metric] = section

        def record(name, runs):
            costs = [judge.cost_until_best(steps) for steps in runs]
            section["schedulers"][name] = {
                "median": statistics.median(costs),
                "from": quantile(costs, 0.05), "to": quantile(costs, 0.95),
                "costs": costs}
            print(metric, name, statistics.median(costs),
                  quantile(costs, 0.05), quantile(costs, 0.95), flush=True)

        for kind in options.schedulers:
            record(kind, play_ours(options, options.table, kind, metric))
        if "tpe" in options.others or "gp" in options.others:
            import optuna
            result["optuna"] = optuna.__version__
            samplers = {"tpe": optuna.samplers.TPESampler,
                        "gp": optuna.samplers.GPSampler}
            for name in ("tpe", "gp"):
                if name in options.others:
                    record(f"optuna_{name}", [
                        play_optuna(space, samplers[name](seed=seed),
                                    options.most)
                        for seed in range(options.seeds)])
        if "ax" in options.others:
            import ax
            result["ax"] = ax.__version__
            record("ax", [play_ax(space, seed, options.most)
                          for seed in range(options.seeds)])
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="from searches' folders")
    table.add_argument("folders", nargs="+", type=pathlib.Path)
    table.add_argument("--out", required=True)
    game = commands.add_parser("play", help="schedulers on the table")
    game.add_argument("table")
    game.add_argument("--config", default="benchmarks/search/replay.toml")
    game.add_argument("--replay", default="build/release/bin/search_replay")
    game.add_argument("--seeds", type=int, default=20)
    game.add_argument("--most", type=int, default=400,
                      help="trials of the other optimisers at most")
    game.add_argument("--metrics", nargs="+", default=["flops"])
    game.add_argument("--schedulers", nargs="*",
                      default=["model", "asha", "halving", "random"])
    game.add_argument("--others", nargs="*", default=["tpe", "gp", "ax"])
    game.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    make_table(options) if options.command == "table" else play(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
