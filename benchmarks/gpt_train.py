#!/usr/bin/env python3
"""`einforge train` beside gpt_eager.py: tokens per second, taking turns, as JSON.

GPT of width 256, 3 layers, context 128, batch 32, float32, dense and Monarch.
Each round runs the eager model and then both of ours, so that a machine that
is busy for a while hurts all; ratios are taken within a round.

    .venv/bin/python benchmarks/gpt_train.py --out results/cpu/gpt_train.json
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import provenance

ROOT = pathlib.Path(__file__).resolve().parent.parent
STRUCTURES = ("dense", "monarch")
TOKENS = 32 * 128
WARM_UP = 2  # steps left out, as in gpt_eager.py


def eager(steps):
    """The best and median tokens per second of each structure."""
    output = subprocess.run(
        [sys.executable, ROOT / "benchmarks/gpt_eager.py", "--steps",
         str(steps)], check=True, capture_output=True, text=True).stdout
    result = json.loads(output)
    return result, {
        row["structure"]: (row["best_tokens_per_s"],
                           row["median_tokens_per_s"])
        for row in result["rows"]}


def ours(program, structure, steps, folder):
    """The same from the log of a run that logs every step."""
    run = folder / "run"
    command = [
        program, "train", folder / "config.json", "--out", run, "--json",
        "--set", f"model.structure.all={structure}", "--set",
        f"steps={steps + WARM_UP}"]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in
            (run / "log.jsonl").read_text().splitlines()]
    ends = [row["seconds"] for row in rows if row.get("train_loss")]
    seconds = [b - a for a, b in zip(ends[WARM_UP - 1:], ends[WARM_UP:])]
    assert len(seconds) == steps, (len(seconds), steps)
    subprocess.run(["rm", "-r", run], check=True)
    return TOKENS / min(seconds), TOKENS / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(
            [options.program, "data", "prepare", ROOT / "examples/data",
             "--tokens", "chars96", "--out", folder / "data"],
            check=True, capture_output=True)
        (folder / "config.json").write_text(json.dumps({
            "model": {"width": 256, "layers": 3, "context": 128},
            "data": {"path": str(folder / "data"), "batch_size": 32},
            "device": "cpu", "dtype": "float32", "log_every": 1,
            "eval_every": 0, "eval_batches": 1, "checkpoint_every": 0}))
        for i in range(options.rounds):
            settings, theirs = eager(options.steps)
            row = {"load_average": os.getloadavg()[0]}
            for structure in STRUCTURES:
                mine = ours(options.program, structure, options.steps, folder)
                row[structure] = {
                    "eager_best": theirs[structure][0],
                    "eager_median": theirs[structure][1],
                    "einforge_best": mine[0],
                    "einforge_median": mine[1],
                    "ratio_of_bests": mine[0] / theirs[structure][0],
                    "ratio_of_medians": mine[1] / theirs[structure][1]}
                print(f"round {i}, {structure}: eager "
                      f"{theirs[structure][0]:.0f}, einforge {mine[0]:.0f} "
                      "tokens/s at best", file=sys.stderr)
            rounds.append(row)
    origin = provenance.provenance(options.program)
    origin["hardware"]["threads"] = settings["threads"]
    origin["versions"]["torch"] = settings["torch"]
    summary = {
        structure: {
            key: statistics.median(row[structure][key] for row in rounds)
            for key in rounds[0][structure]}
        for structure in STRUCTURES}
    for structure in STRUCTURES:
        for who in ("eager", "einforge"):
            summary[structure][f"{who}_best"] = max(
                row[structure][f"{who}_best"] for row in rounds)
    text = json.dumps({
        **origin,
        "seed": 0,
        "unit": "tokens per second; ratios are einforge / eager",
        "summary": summary,
        "rounds": rounds}, indent=2) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
