#!/usr/bin/env python3
"""Whether several processes train as one does: over NCCL on the GPUs of a host,
over Gloo on a CPU.

For each structure, in float32: the gradients of a step from the same weights,
the losses, and the weights with and without shards, by one process and by
several; the same run resumed by as many, bit for bit, and by one; the same
started by torchrun, where it is installed. Trials of a search by teams of
processes. And what becomes of the processes when one of them is killed or
stopped. Prints a line for each and ends with 1 where one is not as it should
be.

    scripts/check_processes.py --device cuda --out results/h200x2/processes.json
    scripts/check_processes.py --device cpu
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from experiment import rows  # noqa: E402
from provenance import provenance  # noqa: E402

STEPS = 20
# Whose gradients are compared: layers that start at zero keep them from most
# others for two steps.
GRADIENT_STEP = 6
# Of float32 sums in another order; those of NCCL are not measured. A router may
# choose another expert for a token that is on the edge, which shows in the
# losses of later steps.
MOST_OF_GRADIENTS = {"cpu": 1e-6, "cuda": 1e-5}
MOST_OF_LOSSES = 5e-3


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--program", type=path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--structures", nargs="+",
                        default=["dense", "monarch", "btt_moe:E=4,k=2"])
    parser.add_argument("--jobs", type=int, default=8,
                        help="runs side by side")
    parser.add_argument("--limit", type=int, default=50,
                        help="seconds of one run")
    parser.add_argument("--out", type=path, help="a JSON file")
    options = parser.parse_args()
    options.program = options.program.resolve()
    if not options.program.exists():
        parser.error(f"--program: expected a file; got '{options.program}'")
    return options


def tensors(file):
    """Of a safetensors file, as float64."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {
        name: numpy.frombuffer(
            data[8 + size:][slice(*entry["data_offsets"])],
            {"F32": "f4", "F64": "f8", "I64": "i8"}[entry["dtype"]]).astype(
                "f8")
        for name, entry in header.items() if name != "__metadata__"}


def difference(a, b):
    """The tensor with the greatest norm of the difference over its norm, and
    that."""
    if a.keys() != b.keys() or not a:
        raise RuntimeError("different tensors")
    far = {name: float(numpy.linalg.norm(a[name] - b[name]) /
                       max(numpy.linalg.norm(a[name]), 1e-12)) for name in a}
    return max(far.items(), key=lambda item: item[1])


class Checks:
    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.rows = []
        self.live = set()  # process ids of what runs
        self.lock = threading.Lock()
        self.begin = time.monotonic()
        self.data = folder / "data"
        self.run([options.program, "data", "prepare", ROOT / "examples/data",
                  "--tokens", "chars96", "--out", self.data])

    def run(self, command, expected=0):
        with subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
                start_new_session=True) as process:
            self.live.add(process.pid)
            try:
                _, errors = process.communicate(timeout=self.options.limit)
            except subprocess.TimeoutExpired:
                end(process.pid)
                process.communicate()
                raise RuntimeError(
                    f"not over after {self.options.limit} s") from None
            finally:
                self.live.discard(process.pid)
        if process.returncode != expected:
            lines = errors.strip().splitlines() or ["no output"]
            raise RuntimeError(f"exit code {process.returncode}: {lines[-1]}")
        return errors

    def note(self, check, good, **what):
        row = {"check": check, **what, "good": bool(good),
               "at_seconds": time.monotonic() - self.begin}
        with self.lock:
            self.rows.append(row)
            text = ", ".join(
                f"{key} {value:.2g}" if isinstance(value, float) else
                f"{key} {value}" for key, value in what.items())
            print(f"{'ok  ' if good else 'BAD '} {check:9} {text}", flush=True)
            self.write()

    def write(self):
        options = self.options
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({
                **provenance(options.program), "device": options.device,
                "processes": options.processes, "seed": 0,
                "rows": self.rows}, indent=1) + "\n")

    def config(self, structure):
        """The words of a run, but for its folder and its processes."""
        name = structure.split(":")[0]
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps({
            "model": {"width": 128, "layers": 2, "context": 64,
                      "structure": {"all": structure},
                      "moe": {"router": {"init_std": 1}}},
            "data": {"path": str(self.data),
                     "batch_size": 8 * self.options.processes},
            "device": self.options.device, "dtype": "float32",
            "optimizer": {"learning_rate": 3e-4},
            "steps": STEPS, "log_every": 1, "eval_every": 0,
            "eval_batches": 2, "checkpoint_every": 1,
            "keep_checkpoints": STEPS + 1}))
        return [self.options.program, "train", file, "--json"]

    @staticmethod
    def moments(run):
        file = (run / f"checkpoints/step_{GRADIENT_STEP:08}" /
                "optimizer.safetensors")
        found = {name: tensor for name, tensor in tensors(file).items()
                 if name.startswith("first.")}
        if not all(tensor.any() for tensor in found.values()):
            raise RuntimeError("a parameter has no gradient")
        return found

    def gradients(self, structure, run, folder, several):
        """Of one step from the same weights, by one process and by several.
        With this beta Adam's first moment is the gradient."""
        run = [*run, "--set", "optimizer.beta1=0",
               "--set", f"steps={GRADIENT_STEP}"]
        one, other = folder / "gradients_one", folder / "gradients_several"
        self.run([*run, "--out", one])
        shutil.copytree(
            one, other,
            ignore=shutil.ignore_patterns(f"step_{GRADIENT_STEP:08}"))
        self.run([*run, "--out", other, "--resume", *several])
        a, b = self.moments(one), self.moments(other)
        name, far = difference(a, b)
        self.note("gradients", far < MOST_OF_GRADIENTS[self.options.device],
                  structure=structure, tensors=len(a),
                  relative_difference=far, of=name)

    @staticmethod
    def weights(run):
        return tensors(
            run / f"checkpoints/step_{STEPS:08}/model.safetensors")

    @staticmethod
    def losses(run):
        rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
        return numpy.array([row["train_loss"] for row in rows
                            if row.get("train_loss")])

    def compare_losses(self, structure, check, one, other):
        a, b = self.losses(one), self.losses(other)
        if len(a) != len(b) or len(a) < STEPS // 2:
            raise RuntimeError(f"{len(a)} and {len(b)} losses")
        far = float(abs(a - b).max())
        self.note(check, far < MOST_OF_LOSSES, structure=structure,
                  steps=len(a), first=float(a[0]), last=float(a[-1]),
                  most_difference=far)

    def structure(self, structure):
        count = self.options.processes
        run = self.config(structure)
        folder = self.folder / structure.split(":")[0]
        several = ["--processes", count]
        starts = {
            "one": [], "several": several,
            "sharded": [*several, "--shard-optimizer"]}
        # The first finds kernels that the others take from the cache.
        self.run([*run, "--out", folder / "one"])
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(
                lambda name: self.run(
                    [*run, "--out", folder / name, *starts[name]]),
                ["several", "sharded"]))
        self.compare_losses(
            structure, "losses", folder / "one", folder / "several")
        whole = self.weights(folder / "several")
        self.compare_weights(structure, "sharded", whole, folder / "sharded")

        half = STEPS // 2
        for name in ("resumed", "by_one"):
            shutil.copytree(
                folder / "several", folder / name,
                ignore=lambda _, names: [
                    n for n in names
                    if n.startswith("step_") and int(n[5:]) > half])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda pair: self.run(
                [*run, "--out", folder / pair[0], "--resume", *pair[1]]),
                [("resumed", several), ("by_one", [])]))
        self.compare_weights(structure, "resumed", whole, folder / "resumed")
        self.compare_losses(
            structure, "by one", folder / "several", folder / "by_one")
        self.gradients(structure, run, folder, several)

    def compare_weights(self, structure, check, whole, run):
        _, far = difference(whole, self.weights(run))
        self.note(check, far == 0, structure=structure,
                  relative_difference=far)

    def torchrun(self):
        if not shutil.which("torchrun"):
            print("     torchrun  is not installed")
            return
        run = self.config("dense")
        folder = self.folder / "torchrun"
        self.run(["torchrun", "--no-python", "--nproc-per-node",
                  self.options.processes, *run, "--out", folder])
        self.note("torchrun", len(self.losses(folder)) == STEPS,
                  steps=len(self.losses(folder)))

    def team(self):
        """The losses of a search's trials, each by one process and by all."""
        count = self.options.processes
        train = json.loads(
            pathlib.Path(self.config("dense")[2]).read_text())
        file = self.folder / "team.json"
        file.write_text(json.dumps({
            "train": train, "structures": ["dense", "monarch"],
            "learning_rates": [3e-4, 6e-4], "widths": [128], "bootstrap": 0,
            "curve_points": 1, "budget": {"tokens": STEPS * train["data"][
                "batch_size"] * train["model"]["context"]}}))
        losses = []
        for size in (1, count):
            folder = self.folder / f"team_{size}"
            devices = ["--device", ",".join(
                f"cuda:{i}" for i in range(count))]
            self.run([self.options.program, "search", file, "--quiet",
                      "--out", folder, "--set",
                      f"processes_per_trial={size}", *(
                          devices if self.options.device == "cuda" else [])])
            losses.append(dict(rows(
                folder / "trials.db", "SELECT id, final_loss FROM trials")))
        one, several = losses
        far = max(abs(one[key] - several[key]) for key in one)
        self.note("team", len(one) == 4 and far < MOST_OF_LOSSES,
                  trials=len(one), most_difference=far)

    def hit(self, number, rank):
        """Of one that is killed or stopped: when the others end, what they
        say, who is left, and that the run goes on."""
        name = signal.Signals(number).name
        folder = self.folder / f"{name}_{rank}"
        run = [*self.config("monarch"), "--out", folder, "--processes",
               self.options.processes]
        if number == signal.SIGSTOP:  # which the launcher does not see
            run += ["--patience", 5]
        endless = ["--set", "steps=100000000", "--set", "checkpoint_every=5",
                   "--set", "keep_checkpoints=2"]
        with subprocess.Popen(
                [str(word) for word in [*run, *endless]], text=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                start_new_session=True) as process:
            self.live.add(process.pid)
            try:
                self.wait_for(lambda: list(
                    (folder / "checkpoints").glob("step_*")), process)
                ranks = children(process.pid)
                begin = time.monotonic()
                os.kill(ranks[rank], number)
                _, errors = process.communicate(timeout=self.options.limit)
                seconds = time.monotonic() - begin
            finally:
                if process.poll() is None:
                    end(process.pid)
                self.live.discard(process.pid)
            left = [pid for pid in ranks.values()
                    if pathlib.Path(f"/proc/{pid}").exists()]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        said = [line for line in errors.splitlines() if "error" in line]
        newest = max((folder / "checkpoints").glob("step_*"))
        step = int(newest.name[5:])
        self.run([*run, "--resume", "--set", f"steps={step + 10}"])
        self.note(name, process.returncode == 1 and len(said) == 1 and
                  f"rank {rank}" in said[0] and not left, rank=rank,
                  seconds=seconds, exit_code=process.returncode,
                  said=" / ".join(said), processes_left=len(left),
                  resumed_at=step)

    def wait_for(self, there, process):
        begin = time.monotonic()
        while not there():
            if process.poll() is not None:
                raise RuntimeError(process.stderr.read().strip()[-300:])
            if time.monotonic() - begin > self.options.limit:
                raise RuntimeError("no checkpoint came")
            time.sleep(0.05)

    def all(self):
        last = self.options.processes - 1
        work = [(self.structure, s) for s in self.options.structures]
        work += [(self.hit, signal.SIGKILL, last),
                 (self.hit, signal.SIGKILL, 0),
                 (self.hit, signal.SIGSTOP, last), (self.team,),
                 (self.torchrun,)]

        def guarded(job):
            try:
                job[0](*job[1:])
            except (RuntimeError, OSError, KeyError, ValueError,
                    TypeError, subprocess.SubprocessError) as error:
                self.note(job[0].__name__, False, error=str(error),
                          of=" ".join(map(str, job[1:])))

        with ThreadPoolExecutor(self.options.jobs) as pool:
            list(pool.map(guarded, work))
        return all(row["good"] for row in self.rows)


def end(launcher):
    """It and its processes, now."""
    for pid in [*children(launcher).values(), launcher]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def children(launcher):
    """Process ids by rank."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            if f"\nPPid:\t{launcher}\n" not in status:
                continue
            for entry in (folder / "environ").read_bytes().split(b"\0"):
                if entry.startswith(b"RANK="):
                    found[int(entry[5:])] = int(folder.name)
        except OSError:
            pass
    return found


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        checks = Checks(options, pathlib.Path(name))

        def give_up(*_):
            for launcher in list(checks.live):
                end(launcher)
            os._exit(1)

        signal.signal(signal.SIGTERM, give_up)
        good = checks.all()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
