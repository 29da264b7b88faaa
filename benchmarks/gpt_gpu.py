#!/usr/bin/env python3
"""Tokens per second of `einforge train` on a GPU, one structure after another,
beside the same GPT in plain PyTorch, eager and compiled, as JSON.

GPTs of 6 layers, context 128, batch 512, bfloat16. Of each run: the median of
its rows once kernels are chosen, the memory that tensors took at most, the
share of the GPU's peak (MFU), and, with --profile, where the time of a step
goes. --vocabulary trains on random tokens of so many symbols in place of the
shipped text: GPT-2 124M is

    .venv/bin/python benchmarks/gpt_gpu.py --layers 12 --context 1024 \\
        --batch 32 --vocabulary 50304 --runs dense:768 monarch:768 \\
        btt_moe:E=16,k=2:768 --out results/h200/gpt2

    .venv/bin/python benchmarks/gpt_gpu.py --out results/h200/gpt
    .venv/bin/python benchmarks/gpt_gpu.py --steps 20 \\
        --runs dense:1024 btt_moe:E=16,k=2:512
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = ["dense:1024", "monarch:1024", "ffn_moe:E=8,k=2:1024",
        "btt_moe:E=16,k=2:1024", "dense:768", "monarch:768",
        "btt_moe:E=16,k=2:768", "dense:512", "btt_moe:E=16,k=2:512"]
# FLOP/s of bfloat16 with float32 sums, without sparsity (NVIDIA's data sheets).
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}


def run_program(command, **options):
    """Its output; ends this program with its error where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        sys.exit(f"{pathlib.Path(command[0]).name}: {lines[-1]}")
    return done.stdout


def train(options, structure, width, graph, folder):
    """The row of one run; its profile beside the results."""
    run = folder / "run"
    command = [
        options.program, "train", folder / "config.json", "--out", run,
        "--set", f"model.structure.all={structure}",
        "--set", f"model.width={width}",
        "--set", f"cuda_graph={str(graph).lower()}"]
    if options.profile:
        command.append("--profile")
    flops = json.loads(run_program([*command, "--json"]))["flops_per_token"]
    rows = [json.loads(line) for line in
            (run / "log.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row.get("train_loss")]
    # The first has the choice of kernels in it, the second the profiled steps.
    speed = [row["tokens_per_second"]
             for row in logged[2:] or logged[1:] or logged]
    row = {
        "implementation": "einforge",
        "structure": structure,
        "width": width,
        "cuda_graph": graph,
        "tokens_per_second": statistics.median(speed),
        "step_milliseconds": 1e3 * options.batch * options.context /
                             statistics.median(speed),
        "peak_memory_bytes": logged[-1]["peak_memory_bytes"],
        "flops_per_token": flops,
        "train_loss": logged[-1]["train_loss"]}
    if options.profile:
        without = "" if graph else "_without_graph"
        name = f"profile_{structure.split(':')[0]}_{width}{without}.json"
        profile = json.loads((run / "profile_summary.json").read_text())
        row["gpu_idle_share"] = profile["gpu_idle_share"]
        if options.out:
            (options.out / name).write_text(json.dumps(profile, indent=2) +
                                            "\n")
    subprocess.run(["rm", "-r", run], check=True)
    return row


def eager(options, width, compiled):
    command = [
        sys.executable, ROOT / "benchmarks/gpt_eager.py", "--device", "cuda",
        "--structures", "dense", "--width", str(width), "--layers",
        str(options.layers), "--batch", str(options.batch), "--context",
        str(options.context), "--vocabulary", str(options.vocabulary or 96),
        "--steps", "3"]
    output = json.loads(
        run_program(command + (["--compile"] if compiled else [])))
    speed = output["rows"][0]["median_tokens_per_s"]
    return {
        "implementation": "torch.compile" if compiled else "PyTorch eager",
        "structure": "dense",
        "width": width,
        "tokens_per_second": speed,
        "step_milliseconds": 1e3 * options.batch * options.context / speed,
        "peak_memory_bytes": output["peak_memory_bytes"]}


def command_of(options):
    """What repeats it, without this machine's folders."""
    return " ".join([
        "python benchmarks/gpt_gpu.py --runs", *options.runs,
        f"--steps {options.steps} --layers {options.layers}",
        f"--batch {options.batch} --context {options.context}",
        f"--vocabulary {options.vocabulary} --cuda-graph",
        *(str(graph).lower() for graph in options.cuda_graph)] +
        ["--profile"] * options.profile + ["--no-torch"] * options.no_torch +
        ["--no-eager"] * options.no_eager)


def prepare(options, folder):
    if not options.vocabulary:
        run_program(
            [options.program, "data", "prepare", ROOT / "examples/data",
             "--tokens", "chars96", "--out", folder / "data"])
        return
    kind = "<u2" if options.vocabulary <= 1 << 16 else "<u4"
    for part, size in (("train", 1 << 22), ("val", 1 << 18)):
        numpy.random.default_rng(size).integers(
            options.vocabulary, size=size).astype(kind).tofile(
                folder / f"{part}.bin")
    run_program(
        [options.program, "data", "import", folder / "train.bin", "--val",
         folder / "val.bin", "--vocab", str(options.vocabulary), "--out",
         folder / "data"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path,
                        default=ROOT / "build/release/bin/einforge")
    parser.add_argument("--runs", nargs="+", default=RUNS,
                        metavar="STRUCTURE:WIDTH")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=0,
                        help="of random tokens; 0: the shipped text")
    parser.add_argument("--cuda-graph", nargs="+", default=[True],
                        type=lambda text: {"true": True, "false": False}[text],
                        metavar="true|false",
                        help="both: each run with CUDA graphs and without")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--no-torch", action="store_true",
                        help="leave out plain PyTorch")
    parser.add_argument("--no-eager", action="store_true",
                        help="plain PyTorch compiled alone")
    parser.add_argument("--out", type=pathlib.Path, help="a folder")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("expected a GPU that CUDA sees; found none")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name()
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name),
                None)
    result = {
        "command": command_of(options),
        "hardware": name,
        "versions": {
            "einforge": run_program([options.program, "--version"]).strip(),
            "torch": torch.__version__},
        "seed": 0,
        "layers": options.layers,
        "context": options.context,
        "batch": options.batch,
        "vocabulary": options.vocabulary or 96,
        "peak_flops": peak,
        "rows": []}

    def add(row, flops):
        if peak:
            row["mfu"] = row["tokens_per_second"] * flops / peak
        result["rows"].append(row)
        print(f"{row['implementation']:13} {row['structure']:18} "
              f"{row['width']:5} {row['tokens_per_second']:9,.0f} tokens/s "
              f"{row['step_milliseconds']:7.2f} ms per step "
              f"{row['peak_memory_bytes'] / 1e9:5.1f} GB" +
              (f", idle {row['gpu_idle_share']:.1%}"
               if row.get("gpu_idle_share") is not None else "") +
              ("" if row.get("cuda_graph", True) else ", without graphs") +
              (f", MFU {row['mfu']:.1%}" if peak else ""), file=sys.stderr)
        if options.out:
            (options.out / "gpt.json").write_text(
                json.dumps(result, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(options, folder)
        (folder / "config.json").write_text(json.dumps({
            "model": {"layers": options.layers, "context": options.context},
            "data": {"path": str(folder / "data"),
                     "batch_size": options.batch},
            "device": "cuda", "dtype": "bfloat16", "steps": options.steps,
            "log_every": 10, "eval_every": 0, "eval_batches": 1,
            "checkpoint_every": -1}))
        for run in options.runs:
            structure, _, width = run.rpartition(":")
            for graph in options.cuda_graph:
                row = train(options, structure, int(width), graph, folder)
                flops = row["flops_per_token"]
                add(row, flops)
            if structure == "dense" and not options.no_torch:
                for compiled in (False, True):
                    if compiled or not options.no_eager:
                        add(eager(options, int(width), compiled), flops)
    if not options.out:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
