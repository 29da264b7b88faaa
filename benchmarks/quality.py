#!/usr/bin/env python3
"""Loss for loss, what structures save over dense and over an FFN mixture.

Three stages, each of which goes on where it was when it is started again:
  tune   every learning rate of the config for each structure at one width, and
         more where the best is the least or the greatest
  train  every width at the structure's best rate, one run at a time, so that
         seconds are of a device that does nothing else
  fit    scaling laws and compute multipliers with intervals, in FLOPs and in
         seconds, over each baseline; the report

    python3 benchmarks/quality.py --text TEXT[.xz] --results results/h100/quality

A text of one paragraph per line. --results gets what is worth keeping: both
stores, the fits, the report, summary.json; a later start elsewhere goes on from
the stores there.
"""

import argparse
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

from experiment import copy_store, environment, prepare_text, rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
METRICS = ("flops", "seconds")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--program", type=path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--config", type=path,
                        default=ROOT / "examples/configs/quality_h100.toml")
    parser.add_argument("--text", type=path, help="prepared into OUT/data")
    parser.add_argument("--data", type=path,
                        help="a prepared folder, in place of --text")
    parser.add_argument("--out", type=path, default=path("runs/quality"))
    parser.add_argument("--results", type=path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--structures", nargs="+")
    parser.add_argument("--widths", nargs="+", type=int)
    parser.add_argument("--rates", nargs="+", type=float)
    parser.add_argument("--tokens", type=float, help="of a run")
    parser.add_argument("--tune-tokens", type=float,
                        help="of a run that tunes (a third)")
    parser.add_argument("--tune-width", type=int, help="(the smallest)")
    parser.add_argument("--tune-workers", type=int, default=4)
    parser.add_argument("--tune-rounds", type=int, default=2,
                        help="of rates beyond the config's")
    parser.add_argument("--tune-limit", type=float, default=math.inf,
                        help="seconds after which to go on with what is there")
    parser.add_argument("--train-limit", type=float, default=math.inf)
    parser.add_argument("--baselines", nargs="+",
                        default=["dense", "ffn_moe:E=8,k=2"])
    parser.add_argument("--set", action="append", default=[],
                        help="key=value for both searches, over the config")
    parser.add_argument("--stages", nargs="+", choices=["tune", "train", "fit"],
                        default=["tune", "train", "fit"])
    return parser.parse_args()


def read_toml(path):
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        from pip._vendor import tomli as tomllib
    return tomllib.loads(path.read_text())


class Experiment:
    def __init__(self, options):
        self.options = options
        self.config = read_toml(options.config)
        self.structures = options.structures or self.config["structures"]
        self.widths = sorted(options.widths or self.config["widths"])
        self.tune_width = options.tune_width or self.widths[0]
        self.tokens = options.tokens or self.config["budget"]["tokens"]
        self.rates = options.rates or self.config["learning_rates"]
        self.data = options.data or options.out / "data"
        self.results = options.results or options.out / "results"
        self.program = options.program.resolve()
        self.tune_folder = options.out / "tune"
        self.train_folder = options.out / "search"
        self.stores = {self.tune_folder / "trials.db": "tune.db",
                       self.train_folder / "trials.db": "trials.db"}
        self.times = {}

    def run(self):
        self.results.mkdir(parents=True, exist_ok=True)
        if self.options.stages != ["fit"]:  # which reads the stores alone
            prepare_text(
                self.program, self.options.text, self.data, "quality")
        for store, name in self.stores.items():
            if not store.exists():
                copy_store(self.results / name, store)
        try:
            for stage in self.options.stages:
                start = time.monotonic()
                getattr(self, stage)()
                self.times[stage] = time.monotonic() - start
                print(f"--- {stage}: {self.times[stage]:.0f} s", flush=True)
        finally:
            for store, name in self.stores.items():
                copy_store(store, self.results / name)

    def search(self, folder, structures, deadline, settings):
        """Whether it ended by itself."""
        settings = {"structures": structures, "train.data.path": str(self.data),
                    **settings}
        command = [self.program, "search", self.options.config, "--out", folder,
                   "--device", self.options.device]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        for setting in self.options.set:
            command += ["--set", setting]
        # The tuning stage shares its device among its runs, so the kernels that
        # it finds fastest are not to be trusted later.
        env = environment(self.program)
        env["EINFORGE_CACHE_DIR"] = str((folder / "cache").resolve())
        sys.stdout.flush()
        # Its table comes without intervals; ours comes later.
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        try:
            left = deadline - time.monotonic()
            code = process.wait(None if math.isinf(left) else max(1, left))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
            process.send_signal(signal.SIGINT)
            process.wait()
            if isinstance(stop, KeyboardInterrupt):
                raise
            print(f"quality: {folder.name} is out of time", flush=True)
            return False
        if code != 0:
            sys.exit(f"quality: the search in {folder} failed ({code})")
        return True

    def tuned(self):
        """{structure: {rate: loss}} of what has been trained."""
        found = {}
        for structure, rate, status, loss in rows(
                self.tune_folder / "trials.db",
                "SELECT structure, learning_rate, status, final_loss FROM "
                "trials WHERE status IN ('done', 'diverged')"):
            known = found.setdefault(structure, {})
            known[rate] = loss if status == "done" else math.inf
        return found

    def tune(self):
        if rows(self.train_folder / "trials.db", "SELECT id FROM trials"):
            print("quality: training has begun; the rates stay as they are")
            return
        deadline = time.monotonic() + self.options.tune_limit
        ask = [f"{s}@{rate:g}" for s in self.structures for rate in self.rates]
        for _ in range(1 + self.options.tune_rounds):
            settings = {
                "name": "tune", "widths": [self.tune_width],
                "budget.tokens": self.options.tune_tokens or self.tokens / 3,
                "curve_points": 4, "bootstrap": 0,
                "workers": self.options.tune_workers}
            if not self.search(self.tune_folder, ask, deadline, settings):
                break
            ask = []
            for structure, losses in self.tuned().items():
                if len(losses) >= len(self.rates) + self.options.tune_rounds:
                    continue
                best = min(losses, key=losses.get)
                for edge, factor in ((min, 0.5), (max, 2.0)):
                    if best == edge(losses):
                        ask.append(f"{structure}@{best * factor:g}")
            if not ask or deadline - time.monotonic() < 5:
                break

    def best_rates(self):
        best = {}
        for structure, losses in self.tuned().items():
            rate = min(losses, key=losses.get)
            if math.isfinite(losses[rate]):
                best[structure] = rate
        return best

    def train(self):
        best = self.best_rates()
        if not best:
            sys.exit("quality: no learning rate was tried; run --stages tune")
        for structure, rate in best.items():
            losses = ", ".join(
                f"{r:g}: {loss:.4f}" for r, loss in
                sorted(self.tuned()[structure].items()))
            print(f"{structure}: rate {rate:g} of {losses}", flush=True)
        self.search(
            self.train_folder,
            [f"{structure}@{rate:g}" for structure, rate in best.items()],
            time.monotonic() + self.options.train_limit,
            {"widths": self.widths, "budget.tokens": self.tokens,
             # The fits come last and need no GPU.
             "workers": 1, "bootstrap": 0})

    def output_of(self, *arguments):
        return subprocess.run(
            [self.program, *map(str, arguments)], check=True,
            stdout=subprocess.PIPE, text=True,
            env=environment(self.program)).stdout

    def fit(self):
        store = self.train_folder / "trials.db"
        trained = rows(
            store,
            "SELECT structure, model, parameters, learning_rate, status, flops,"
            " seconds, final_loss FROM trials ORDER BY structure, flops")
        columns = ("structure", "model", "parameters", "learning_rate",
                   "status", "flops", "seconds", "loss")
        runs = [dict(zip(columns, row)) for row in trained]
        with_curve = {structure for structure, in rows(
            store, "SELECT DISTINCT structure FROM trials JOIN curves ON "
            "sequence = trial WHERE step > 0")}
        if not with_curve:
            sys.exit("quality: nothing has been trained; run --stages train")
        self.output_of(
            "report", store, "--out", self.options.out / "report.html",
            "--json", self.results / "report.json",
            "--csv", self.results / "report.csv",
            "--points-csv", self.results / "points.csv")
        multipliers = []
        for baseline in self.options.baselines:
            for metric in METRICS:
                if baseline not in with_curve:
                    print(f"quality: no run of {baseline} to compare with")
                    continue
                text = self.output_of("fit", store, "--metric", metric,
                                      "--baseline", baseline, "--json")
                short = baseline.split(":")[0]
                (self.results / f"fit_{metric}_over_{short}.json").write_text(
                    text)
                fit = json.loads(text)
                for found in fit["structures"]:
                    multipliers.append({
                        "structure": found["structure"], "metric": metric,
                        "baseline": baseline,
                        **{key: found[key] for key in
                           ("compute_multiplier", "ci95", "loss_range",
                            "note")}})
        summary = {
            "command": " ".join(sys.argv),
            "rates": self.tuned() or self.recorded_rates(),
            "runs": runs,
            "multipliers": multipliers}
        text = json.dumps(summary, indent=1)
        (self.results / "summary.json").write_text(
            text.replace("Infinity", "null") + "\n")
        self.print_summary(runs, multipliers)

    def recorded_rates(self):
        """What the last summary says, where its tuning's store is not kept."""
        summary = self.results / "summary.json"
        if not summary.exists():
            return {}
        return json.loads(summary.read_text())["rates"]

    def print_summary(self, runs, multipliers):
        row = "{:<18} {:<13} {:>11} {:>8} {:>9} {:>9} {:>8} {:<8}"
        print(row.format("structure", "model", "parameters", "rate", "FLOPs",
                         "seconds", "loss", "status"))
        for run in runs:
            number = lambda key, form: (
                "-" if run[key] is None else format(run[key], form))
            print(row.format(
                run["structure"], run["model"], run["parameters"],
                number("learning_rate", "g"), number("flops", ".2e"),
                number("seconds", ".1f"), number("loss", ".4f"),
                run["status"]))
        print("\ntimes less compute at equal loss, with 95% intervals")
        row = "{:<18} {:<8} over {:<18} {:>7} {:>18}  {}"
        for found in multipliers:
            if found["structure"] == found["baseline"]:
                continue
            ci95 = found["ci95"]
            value = found["compute_multiplier"]
            print(row.format(
                found["structure"], found["metric"], found["baseline"],
                "-" if value is None else f"{value:.2f}",
                "-" if ci95 is None else f"{ci95[0]:.2f} to {ci95[1]:.2f}",
                found["note"] or ""))


if __name__ == "__main__":
    Experiment(parse_arguments()).run()
