#!/usr/bin/env python3
"""The experiments of docs/design/experiments.md.

  S1        learning rates by structure and width, batch sizes, run-to-run
            noise, router and initialisation ablations
  S2 to S4  the main runs, a seed each: trunks at a constant rate, and
            cool-downs branched from them at a quarter, a half and all of D
  S5        the paper's sweep of 23 thetas
  S6        mixtures over bases
  S7        seconds per step, each structure alone
  fit       laws, multipliers and claims from the tables in --results; no GPU

    python3 benchmarks/claims.py --stages S1 --text TEXT[.xz] --minutes 28
    python3 benchmarks/claims.py --stages fit --results results/h200/claims
    python3 benchmarks/claims.py --stages S1,S2,S3,S5,S6,S7,fit --scale cpu ...

Each stage goes on where it was when it is started again. --results gets a table
of runs per stage and the stores; a later start on another machine goes on from
the stores there. A text of one paragraph per line. --structures, --widths and
--parts run some of a stage, as for the primary claim alone:

    python3 benchmarks/claims.py --stages S2 --structures dense \
        btt_moe:E=16,k=2 --widths 256 512 --text TEXT
"""

import argparse
import csv
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

from experiment import copy_store, environment, prepare_text, rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "fit")
COLUMNS = ("stage", "part", "structure", "width", "layers", "seed",
           "learning_rate", "batch", "steps", "tokens", "flops",
           "flops_per_token", "seconds", "loss", "omega", "psi", "status",
           "note")
MOE8, MOE16 = "btt_moe:E=8,k=2", "btt_moe:E=16,k=2"
FFN8, FFN16 = "ffn_moe:E=8,k=2", "ffn_moe:E=16,k=2"

# What a scale changes. Lengths are tokens (characters); rates are tried in S1
# for each structure at each of its widths.
SCALES = {
    "gpu": {
        "settings": {},
        "rates": [5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
        "rate_structures": ["dense", "monarch", FFN8, MOE8, MOE16],
        "rate_widths": [256, 1024],
        "rate_tokens": 20e6,
        "moe": MOE16,  # of batches and ablations
        "batches": [64, 256, 512],
        "noise_seeds": [1, 2, 3],
        "main": {"dense": [128, 256, 512, 1024],
                 "monarch": [128, 256, 512, 1024, 2048],
                 MOE16: [128, 256, 512, 1024, 2048],
                 MOE8: [128, 256, 512, 1024],
                 FFN8: [128, 256, 512], FFN16: [128, 256, 512]},
        "main_tokens": 100e6,
        "sweep": ["dense", "paper_sweep"],
        "sweep_widths": [256, 512, 1024],
        "sweep_tokens": 40e6,
        "bases": ["dense", "dense_moe:E=8,k=2", "dense_moe:E=16,k=2",
                  "low_rank_moe:E=8,k=2", "low_rank_moe:E=16,k=2",
                  MOE8, MOE16, "btt_moe:E=64,k=2", FFN8, FFN16],
        "base_widths": [256, 512],
        "base_tokens": 100e6,
        "time_widths": [512, 1024, 2048, 4096],
        "time_structures": ["dense", "monarch", FFN8, MOE8, MOE16],
        "time_layers": 6,
        "time_steps": 80,
    },
    # Small enough for one CPU thread: tries the procedure, and says what holds
    # at this scale alone.
    "cpu": {
        "settings": {
            "train.device": "cpu", "train.dtype": "float32",
            "train.model.layers": 1, "train.model.context": 64,
            "train.model.head_width": 16, "train.data.batch_size": 32,
            "train.eval_batches": 16, "train.schedule.warmup_steps": 20,
            "workers": 1},
        "rates": [2e-3, 4e-3, 8e-3, 16e-3],
        "rate_structures": ["dense", "monarch", FFN8, MOE8],
        "rate_widths": [16, 64],
        "rate_tokens": 1.25e5,
        "moe": MOE8,
        "batches": [8],
        "noise_seeds": [1],
        "main": {"dense": [16, 32, 64, 96], "monarch": [16, 32, 64, 96],
                 MOE8: [16, 32, 64], FFN8: [16, 32, 64]},
        "main_tokens": 5e5,
        "sweep": ["dense", "monarch", "btt:0.25", "btt:0,alpha=2/3,epsilon=2/3",
                  "low_rank:0.5", "low_rank:0.75", "kronecker",
                  "tensor_train:0.25"],
        "sweep_widths": [32, 64],
        "sweep_tokens": 1.25e5,
        "bases": ["dense", "dense_moe:E=8,k=2", "low_rank_moe:E=8,k=2", MOE8,
                  MOE16, FFN8],
        "base_widths": [32, 64],
        "base_tokens": 1.25e5,
        "time_widths": [16, 32, 64, 96],
        "time_structures": ["dense", "monarch", FFN8, MOE8],
        "time_layers": 1,
        "time_steps": 30,
    },
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--stages", default="fit", metavar="S1,...,fit",
                        help="with commas between (fit)")
    parser.add_argument("--scale", choices=sorted(SCALES), default="gpu")
    parser.add_argument("--program", type=path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--config", type=path,
                        default=ROOT / "benchmarks/claims/claims.toml")
    parser.add_argument("--text", type=path, help="prepared into OUT/data")
    parser.add_argument("--data", type=path,
                        help="a prepared folder, in place of --text")
    parser.add_argument("--out", type=path, default=path("runs/claims"))
    parser.add_argument("--results", type=path, help="(OUT/results)")
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="after which the stage stops, to go on later")
    parser.add_argument("--set", action="append", default=[],
                        help="key=value for all searches, over the config")
    parser.add_argument("--structures", nargs="+", default=[],
                        help="of S1 to S4 and S7 these alone")
    parser.add_argument("--widths", nargs="+", type=int, default=[],
                        help="of S1 to S4 and S7 these alone")
    parser.add_argument("--parts", nargs="+", default=[],
                        help="these alone, as rates of S1")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--predict", nargs="+", default=[],
                        metavar="STRUCTURE@WIDTH",
                        help="of fit: losses after D tokens, to predict before "
                             "their runs")
    parser.add_argument("--page", type=path,
                        help="of fit: the page whose table of predictions is "
                             "written (docs/claims.md)")
    parser.add_argument("--dry-run", action="store_true",
                        help="print the searches of the stages as commands")
    options = parser.parse_args()
    options.stages = options.stages.split(",")
    for stage in options.stages:
        if stage not in STAGES:
            parser.error(f"--stages: expected {', '.join(STAGES)}; got '{stage}'")
    scale = SCALES[options.scale]
    known = {*scale["rate_structures"], *scale["main"]}
    for structure in options.structures:
        if structure not in known:
            parser.error(f"--structures: expected {', '.join(sorted(known))}; "
                         f"got '{structure}'")
    for text in options.predict:
        if not text.rpartition("@")[2].isdigit() or text.count("@") != 1:
            parser.error(f"--predict: expected STRUCTURE@WIDTH; got '{text}'")
    options.results = options.results or options.out / "results"
    return options


class OutOfTime(Exception):
    pass


class Experiment:
    def __init__(self, options):
        self.options = options
        self.scale = SCALES[options.scale]
        self.deadline = time.monotonic() + 60 * options.minutes
        self.program = options.program.resolve()
        self.data = options.data or options.out / "data"
        self.results = options.results
        self.folders = {}  # those of the stage that runs, with what they are

    def chosen(self, structures, width=None):
        """Those that the command line leaves."""
        options = self.options
        if width and options.widths and width not in options.widths:
            return []
        return [s for s in structures
                if not options.structures or s in options.structures]

    # ---- Running the program ------------------------------------------------

    def prepare(self):
        if not self.options.dry_run:
            prepare_text(self.program, self.options.text, self.data, "claims")

    def command(self, words, folder, settings):
        settings = {**self.scale["settings"],
                    "train.data.path": str(self.data), **settings}
        command = [str(self.program), *words, str(self.options.config),
                   "--out", str(folder)]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        for setting in self.options.set:
            command += ["--set", setting]
        return command

    def setting(self, key):
        """A whole number of the config, as the scale and --set change it."""
        value = toml(self.options.config)
        for part in key.split("."):
            value = value[part]
        value = self.scale["settings"].get(key, value)
        for setting in self.options.set:
            name, _, text = setting.partition("=")
            value = text if name == key else value
        return int(value)

    def tokens_per_step(self):
        return (self.setting("train.model.context") *
                self.setting("train.data.batch_size"))

    def search(self, name, structures, widths, tokens, **settings):
        """Trains what is not there yet of a part of a stage."""
        self.search_all([(name, structures, widths, tokens, settings)])

    def search_all(self, searches):
        """The same of several parts, at the same time."""
        parts = self.options.parts
        started = []
        try:
            for name, structures, widths, tokens, settings in searches:
                if not structures or (parts and
                                      name.split("/")[-1] not in parts):
                    continue
                folder = self.options.out / name
                command = self.command(
                    ["search"], folder,
                    {"name": name, "structures": structures, "widths": widths,
                     "budget.tokens": tokens, **settings})
                if self.options.dry_run:
                    print(" ".join(
                        f"'{word}'" if set(word) & set(" *[{&;") else word
                        for word in command))
                    continue
                self.restore(name)
                if self.deadline - time.monotonic() < 5:
                    raise OutOfTime
                print(f"--- {name}: {', '.join(structures)} at {widths}",
                      flush=True)
                # A session of its own: of a terminal's Ctrl-C it would have
                # two, and end without checkpoints.
                started.append((folder, subprocess.Popen(
                    command + ["--quiet"], env=environment(self.program),
                    stdout=subprocess.DEVNULL, start_new_session=True)))
            for folder, process in started:
                left = self.deadline - time.monotonic()
                try:
                    code = process.wait(
                        None if math.isinf(left) else max(left, 0))
                except subprocess.TimeoutExpired:
                    raise OutOfTime from None
                if code != 0:
                    sys.exit(f"claims: the search in {folder} failed ({code})")
        finally:
            for _, process in started:
                if process.poll() is None:
                    process.terminate()
            for _, process in started:
                process.wait()

    def restore(self, name):
        store = self.options.out / name / "trials.db"
        self.folders[name] = store
        saved = self.results / "stores" / f"{name}.db"
        if not store.exists() and saved.exists():
            store.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(saved, store)

    # ---- Trunks and cool-downs ----------------------------------------------

    def main_steps(self, tokens):
        """Steps of a quarter of D: a multiple of 10, so that all cool-downs
        begin at checkpoints of one interval."""
        return 10 * max(1, round(tokens / 4 / self.tokens_per_step() / 10))

    def branched(self, name, structures, width, tokens, seeds, **settings):
        """Cooled-down runs of D / 4, D / 2 and D, where the rate falls over the
        last tenth. One trunk serves all: each is the same, bit for bit, as a run
        of its own (which it is where a trunk's checkpoints are gone)."""
        quarter = self.main_steps(tokens)
        per_step = self.tokens_per_step()
        branches = {share: quarter * share * 9 // 10 for share in (1, 2, 4)}
        todo = [share for share in branches if not self.is_done(
            f"{name}/cool_{share}", structures, width, seeds)]
        if not todo and not self.options.dry_run:
            for share in branches:
                self.restore(f"{name}/cool_{share}")
            return
        common = {"seeds": seeds, **settings}
        self.search(
            f"{name}/trunk", structures, [width], branches[4] * per_step,
            **{**common, "train.schedule.kind": "constant",
               "train.checkpoint_every": branches[1],
               "train.keep_checkpoints": 4})
        cool = {**common, "curve_points": 1, "train.checkpoint_every": -1,
                "train.keep_checkpoints": 1}
        searches = []
        for share, step in branches.items():
            part = f"{name}/cool_{share}"
            tokens = quarter * share * per_step
            self.branch(name, part, structures, width, step,
                        {**cool, "budget.tokens": tokens})
            searches.append((part, structures, [width], tokens, cool))
        # Short, so that starting them one after the other would take as long.
        self.search_all(searches)
        if not self.options.dry_run:
            # Gigabytes.
            for folder in (self.options.out / name).glob("*/trials/*"):
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def is_done(self, name, structures, width, seeds):
        self.restore(name)
        done = {(plain(structure), config["model"]["width"], config["seed"])
                for structure, config in (
                    (structure, json.loads(config))
                    for structure, config in rows(
                        self.options.out / name / "trials.db",
                        "SELECT structure, config FROM trials WHERE status "
                        "IN ('done', 'diverged', 'failed')"))}
        return all((plain(structure), width, seed) in done
                   for structure in structures for seed in seeds)

    def branch(self, name, part, structures, width, step, settings):
        """Links the trunk's checkpoints to where the cool-downs look first."""
        if self.options.dry_run:
            return
        self.restore(part)
        trunk = self.options.out / name / "trunk"
        key = lambda structure, config: (
            structure, config["model"]["width"], config["model"]["layers"],
            config["optimizer"]["learning_rate"], config["seed"])
        ids = {key(structure, json.loads(config)): trial
               for trial, structure, config in rows(
                   trunk / "trials.db",
                   "SELECT id, structure, config FROM trials")}
        folder = self.options.out / part
        asked = subprocess.run(
            self.command(["search", "ask"], folder,
                         {**settings, "structures": structures,
                          "widths": [width]}) + ["--count", "256"],
            check=True, stdout=subprocess.PIPE, text=True,
            env=environment(self.program)).stdout
        for line in map(json.loads, asked.splitlines()):
            trial = ids.get(key(line["structure"], line["config"]))
            source = trunk / f"trials/{trial}/checkpoints/step_{step:08}"
            target = folder / f"trials/{line['id']}/checkpoints/{source.name}"
            if source.exists() and not target.parent.exists():
                target.parent.mkdir(parents=True)
                shutil.copytree(source, target, copy_function=os.link)

    # ---- Stages -------------------------------------------------------------

    def best_rates(self):
        """{structure: rate} of S1: the lowest mean log loss over its widths."""
        found = {}
        for row in self.table("S1"):
            if row["part"] == "rates" and row["status"] == "done":
                found.setdefault(row["structure"], {}).setdefault(
                    row["learning_rate"], {})[row["width"]] = row["loss"]
        best = {}
        for structure, rates in found.items():
            widths = max(map(len, rates.values()))
            best[structure] = min(
                (rate for rate, losses in rates.items()
                 if len(losses) == widths),
                key=lambda rate: sum(map(math.log, rates[rate].values())))
        return best

    def with_rates(self, structures):
        """Each with its rate: its own, or that of the structure like it."""
        best = self.best_rates()
        if not best and not self.options.dry_run:
            sys.exit(f"claims: expected {self.results}/S1.csv with learning "
                     "rates; run --stages S1")
        named = []
        for structure in structures:
            family = structure.split(":")[0]
            alike = [known for known in best
                     if known.split(":")[0] == family]
            if family == "dense_moe":
                alike = ["dense"]
            rate = best.get(structure) or best.get(
                alike[0] if alike else "monarch")
            if structure == "paper_sweep":
                # Not named with a rate: all have learning_rates, below.
                named.append(structure)
            else:
                named.append(f"{structure}@{rate:g}" if rate else structure)
        return named

    def S1(self):
        scale = self.scale
        tokens = scale["rate_tokens"]
        widths, rates = scale["rate_widths"], scale["rates"]
        tried = self.chosen(scale["rate_structures"])
        for width in widths:
            self.search("s1/rates", self.chosen(tried, width), [width], tokens,
                        learning_rates=rates, curve_points=1)
        self.collect("S1")
        pair = self.chosen(["dense", scale["moe"]])
        for batch in scale["batches"]:
            self.search(f"s1/batch_{batch}", pair, [widths[0]], tokens,
                        learning_rates=rates[1:4], curve_points=1,
                        **{"train.data.batch_size": batch})
        self.search("s1/noise", self.with_rates(tried),
                    [widths[0]], tokens, seeds=scale["noise_seeds"],
                    curve_points=1)
        ablations = {
            "router_sum": {"train.model.moe.router.reduce": "sum"},
            "router_init": {"train.model.moe.router.init_std": 1.0},
            "defaults": {"train.model.bias": True,
                         "train.model.embedding_std": 1.0}}
        for name, settings in ablations.items():
            self.search(f"s1/{name}",
                        self.with_rates(self.chosen([scale["moe"]])),
                        [widths[0]], tokens, curve_points=1, **settings)

    def main_stage(self, stage, seed):
        widths = sorted({w for ws in self.scale["main"].values() for w in ws})
        for width in widths:
            structures = self.chosen([s for s, ws in self.scale["main"].items()
                                      if width in ws], width)
            if not structures:
                continue
            self.branched(stage.lower(), self.with_rates(structures), width,
                          self.scale["main_tokens"], [seed])
            self.collect(stage)

    def S2(self):
        self.main_stage("S2", 0)

    def S3(self):
        self.main_stage("S3", 1)

    def S4(self):
        self.main_stage("S4", 2)

    def S5(self):
        rate = self.best_rates().get("monarch", 2e-3)
        for width in self.scale["sweep_widths"]:
            self.search("s5/sweep", self.with_rates(self.scale["sweep"]),
                        [width], self.scale["sweep_tokens"],
                        learning_rates=[rate], curve_points=1)
            self.collect("S5")

    def S6(self):
        for width in self.scale["base_widths"]:
            self.search("s6/bases", self.with_rates(self.scale["bases"]),
                        [width], self.scale["base_tokens"], curve_points=1)

    def S7(self):
        """Seconds per step: the median over groups of steps, after the first
        third, of one process that has the machine for itself."""
        found = {(row["structure"], row["width"], row["layers"]): row
                 for row in self.table("S7")}
        main = [(s, w, None) for s, ws in self.scale["main"].items()
                for w in ws if self.chosen([s], w)]
        deep = [(s, w, self.scale["time_layers"])
                for s in self.scale["time_structures"]
                for w in self.scale["time_widths"] if self.chosen([s], w)]
        for structure, width, layers in main + deep:
            layers = layers or self.setting("train.model.layers")
            if (structure, width, layers) in found:
                continue
            row = self.time_step(structure, width, layers)
            if row:
                found[structure, width, layers] = row
                self.write("S7", list(found.values()))

    def time_step(self, structure, width, layers):
        run = self.options.out / "s7/run"
        shutil.rmtree(run, ignore_errors=True)
        config = self.options.out / "s7/train.json"
        settings = {**toml(self.options.config)["train"]}
        flat = {key.removeprefix("train."): value
                for key, value in self.scale["settings"].items()
                if key.startswith("train.")}
        flat |= {"model.structure.all": structure, "model.width": width,
                 "model.layers": layers, "data.path": str(self.data),
                 "steps": self.scale["time_steps"], "log_every": 5,
                 "eval_every": 0, "eval_batches": 1, "checkpoint_every": -1}
        command = [str(self.program), "train", str(config), "--out", str(run),
                   "--json"]
        for key, value in flat.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        for setting in self.options.set:
            if (setting.startswith("train.") and
                    not setting.startswith("train.model.layers=")):
                command += ["--set", setting.removeprefix("train.")]
        if self.options.dry_run:
            print(" ".join(command))
            return None
        if self.deadline - time.monotonic() < 5:
            raise OutOfTime
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(settings))
        done = subprocess.run(command, check=False,
                              env=environment(self.program),
                              capture_output=True, text=True)
        row = {"stage": "S7", "part": "seconds", "structure": structure,
               "width": width, "layers": layers, "status": "done"}
        if done.returncode != 0:
            note = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"S7 {structure} {width}: {note}")
            return {**row, "status": "failed", "note": note}
        log = [json.loads(line) for line in
               (run / "log.jsonl").read_text().splitlines()]
        speeds = [r["tokens_per_second"] for r in log
                  if r.get("tokens_per_second") and
                  r["step"] > self.scale["time_steps"] / 4]
        speed = statistics.median(speeds)
        result = json.loads(done.stdout)
        tokens = self.tokens_per_step()
        shutil.rmtree(run, ignore_errors=True)
        row.update(tokens=tokens, seconds=tokens / speed,
                   flops_per_token=result["flops_per_token"],
                   note=f"10th to 90th percentile over the median: "
                        f"{spread(speeds):.3f}")
        print(f"S7 {structure} d{width} L{layers}: {1e3 * row['seconds']:.2f} ms"
              " per step", flush=True)
        return row

    # ---- Tables -------------------------------------------------------------

    def collect(self, stage):
        """The table of a stage, from its stores."""
        if self.options.dry_run or stage == "S7":
            return
        found = []
        for name, store in sorted(self.folders.items()):
            if not name.startswith(stage.lower() + "/"):
                continue
            part = name.split("/", 1)[1]
            copy_store(store, self.results / "stores" / f"{name}.db")
            if part == "trunk":
                continue  # never cooled down
            for (structure, config, taxonomy, flops, seconds, loss, status,
                 reason) in rows(
                    store, "SELECT structure, config, taxonomy, flops, seconds,"
                    " final_loss, status, reason FROM trials WHERE status IN "
                    "('done', 'diverged', 'failed') ORDER BY sequence"):
                config = json.loads(config)
                taxonomy = json.loads(taxonomy) or {}
                per_step = (config["data"]["batch_size"] *
                            config["model"]["context"] *
                            config["optimizer"]["accumulate"])
                tokens = config["steps"] * per_step
                found.append({
                    "stage": stage, "part": part, "structure": structure,
                    "width": config["model"]["width"],
                    "layers": config["model"]["layers"],
                    "seed": config["seed"],
                    "learning_rate": config["optimizer"]["learning_rate"],
                    "batch": per_step, "steps": config["steps"],
                    "tokens": tokens, "flops": flops,
                    "flops_per_token": flops / tokens if flops else None,
                    "seconds": seconds, "loss": loss,
                    "omega": taxonomy.get("omega"), "psi": taxonomy.get("psi"),
                    "status": status, "note": reason})
        self.write(stage, found)

    def write(self, stage, found):
        self.results.mkdir(parents=True, exist_ok=True)
        new = self.results / f"{stage}.csv.new"
        with open(new, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        new.replace(self.results / f"{stage}.csv")

    def table(self, stage):
        path = self.results / f"{stage}.csv"
        if not path.exists():
            return []
        numbers = {"width": int, "layers": int, "seed": int, "batch": int,
                   "steps": int, "tokens": float, "learning_rate": float,
                   "flops": float, "flops_per_token": float, "seconds": float,
                   "loss": float, "omega": float, "psi": float}
        with open(path, newline="") as file:
            return [{key: numbers.get(key, str)(value) if value else None
                     for key, value in row.items()}
                    for row in csv.DictReader(file)]

    def run(self):
        for stage in self.options.stages:
            start = time.monotonic()
            if stage == "fit":
                import claims_report
                claims_report.report(self)
                continue
            self.prepare()
            try:
                getattr(self, stage)()
            except OutOfTime:
                print(f"claims: {stage} is out of time; the same command goes "
                      "on", flush=True)
            finally:
                self.collect(stage)
            print(f"--- {stage}: {time.monotonic() - start:.0f} s", flush=True)


def plain(structure):
    """Without the rate that is named with it."""
    return structure.split("@")[0]


def spread(values):
    ordered = sorted(values)
    last = len(ordered) - 1
    return ((ordered[round(0.9 * last)] - ordered[round(0.1 * last)]) /
            statistics.median(ordered))


def toml(path):
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        from pip._vendor import tomli as tomllib
    return tomllib.loads(path.read_text())


def stop(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        Experiment(parse_arguments()).run()
    except KeyboardInterrupt:
        sys.exit(130)
