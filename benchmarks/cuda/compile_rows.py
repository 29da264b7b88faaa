"""Adds rows of torch.compile to the JSON that `einforge bench` wrote.

  einforge bench --suite paper --device cuda --json paper.json
  .venv/bin/python benchmarks/cuda/compile_rows.py paper.json

For each layer of the file that has an "einsum" row (or all with --all): the
same einsum in the same cheaper order under torch.compile, as rows with
implementation "torch_compile" and the fields of the others. Timed as bench/
does: cold L2, rotating random inputs, medians. Compiling takes longer than
measuring, so --jobs processes fill inductor's cache first, each its share.
Rows of torch.compile that the file has already are replaced.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
INPUTS = 4
WARM_UP = 3
ROW_MS = 150
FLUSHES = 10
LEAD_IN_S = 0.05


def cheaper_is_ab(sizes):
    a, b, g, d, e, f, r = sizes
    ab = a * b * g * d * f * r + b * g * d * e * f * r
    ba = a * b * g * e * f * r + a * g * d * e * f * r
    return ab <= ba


def einsum_layer(sizes):
    a, b, g, d, e, f, _ = sizes
    ab = cheaper_is_ab(sizes)

    def layer(x, core_a, core_b):
        x4 = x.view(-1, a, b, g)
        if ab:
            z = torch.einsum("tabg,agdfr->tbgdfr", x4, core_a)
            y = torch.einsum("tbgdfr,bgefr->tdef", z, core_b)
        else:
            z = torch.einsum("tabg,bgefr->tagefr", x4, core_b)
            y = torch.einsum("tagefr,agdfr->tdef", z, core_a)
        return y.reshape(x.shape[0], d * e * f)

    return layer


def cores_of(sizes, like):
    """In the memory order that the operator keeps them in."""
    a, b, g, d, e, f, r = sizes
    core_a = torch.randn(a, g, d, f, r, **like) / a**0.5
    core_b = torch.randn(b, g, e, f, r, **like) / (b * g * r) ** 0.5
    first = (1, 0, 2, 3, 4)  # (gamma, in, out, phi, rho)
    second = (3, 0, 1, 4, 2)  # (phi, in, gamma, rho, out)

    def laid_out(core, order):
        back = [order.index(i) for i in range(5)]
        return core.permute(order).contiguous().permute(back).requires_grad_()

    orders = (first, second) if cheaper_is_ab(sizes) else (second, first)
    return laid_out(core_a, orders[0]), laid_out(core_b, orders[1])


class Timer:
    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            self.flush = torch.empty(256 << 20, dtype=torch.uint8, device=device)

    def milliseconds(self, run):
        if not self.cuda:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        start = torch.cuda.Event(enable_timing=True)
        stop = torch.cuda.Event(enable_timing=True)
        for _ in range(FLUSHES):
            self.flush.zero_()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop)


def runner(row, device):
    """A function of the run's number that runs the row's layer once."""
    torch._dynamo.reset()
    sizes = row["sizes"]
    like = {"dtype": DTYPES[row["dtype"]], "device": device}
    core_a, core_b = cores_of(sizes, like)
    xs = [
        torch.randn(row["tokens"], row["d_in"], **like).requires_grad_()
        for _ in range(INPUTS)
    ]
    grads = [torch.randn(row["tokens"], row["d_out"], **like) for _ in range(INPUTS)]
    layer = torch.compile(einsum_layer(sizes), fullgraph=True, dynamic=False)

    def forward(i):
        with torch.no_grad():
            layer(xs[i % INPUTS], core_a, core_b)

    def both(i):
        x = xs[i % INPUTS]
        y = layer(x, core_a, core_b)
        torch.autograd.grad(y, [core_a, core_b, x], grads[i % INPUTS])

    return forward if row["pass"] == "forward" else both


def measure(row, timer, device, repeats):
    try:
        run = runner(row, device)
        for i in range(WARM_UP):
            last = timer.milliseconds(lambda: run(i))
        start = time.perf_counter()
        while timer.cuda and time.perf_counter() - start < LEAD_IN_S:
            timer.milliseconds(lambda: run(0))
        times = [
            timer.milliseconds(lambda: run(i))
            for i in range(max(6, min(repeats, int(ROW_MS / last))))
        ]
    except Exception as error:  # a row, not the end of the run
        return {"error": (str(error) or repr(error)).splitlines()[0]}
    median = statistics.median(times)
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return {
        "median_ms": median,
        "min_ms": min(times),
        "spread": (tenths[-1] - tenths[0]) / median,
        "runs": len(times),
    }


def problem(row):
    return (
        *row["sizes"], row["d_in"], row["d_out"], row["tokens"], row["dtype"],
        row["pass"],
    )


def finish(row, like, dense):
    """What follows from the time and from the einsum's and dense's rows."""
    if "median_ms" not in row:
        return row
    if "median_ms" in like:
        scale = like["median_ms"] / row["median_ms"]
        row["tflops"] = like["tflops"] * scale
        row["gb_per_s"] = like["gb_per_s"] * scale
        row["limit_ms"] = like["limit_ms"]
        row["share_of_limit"] = like["limit_ms"] / row["median_ms"]
    if dense and "median_ms" in dense:
        row["ratio_to_dense"] = dense["median_ms"] / row["median_ms"]
    return row


def wanted_rows(report, every):
    """One row for each problem to compile."""
    rows, seen = [], set()
    for row in report["rows"]:
        name = "einforge" if every else "einsum"
        if row["implementation"] == name and problem(row) not in seen:
            seen.add(problem(row))
            rows.append(row)
    return rows


def fill_cache(args, jobs):
    """Compiles in processes of their own, and gives up on them late."""
    command = [sys.executable, __file__, args.file, "--device", args.device]
    command += ["--all"] if args.all else []
    workers = [
        subprocess.Popen([*command, "--share", f"{i}/{jobs}"]) for i in range(jobs)
    ]
    deadline = time.monotonic() + args.limit
    for worker in workers:
        try:
            worker.wait(timeout=max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.terminate()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300,
                        help="seconds for all there is to do")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    args = parser.parse_args()
    started = time.monotonic()
    with open(args.file) as file:
        report = json.load(file)
    rows = wanted_rows(report, args.all)
    if args.share:
        index, count = map(int, args.share.split("/"))
        for row in rows[index::count]:
            measure(row, Timer("cpu"), args.device, 1)  # only to compile
        return
    if args.jobs > 1:
        fill_cache(args, args.jobs)
    timer = Timer(args.device)
    report["rows"] = [
        row for row in report["rows"] if row["implementation"] != "torch_compile"
    ]
    dense = {
        problem(row): row
        for row in report["rows"]
        if row["implementation"] == "dense"
    }
    labels = ("structure", "sizes", "d_in", "d_out", "rank", "tokens", "dtype", "pass")
    found = {}
    for row in rows:
        if time.monotonic() - started > args.limit:
            result = {"error": f"not measured: {args.limit:.0f} s were over"}
        else:
            result = measure(row, timer, args.device, args.repeats)
        new = {name: row[name] for name in labels}
        new["implementation"] = "torch_compile"
        new.update(result)
        found[problem(row)] = finish(new, row, dense.get(problem(row)))
        ratio = new.get("median_ms", float("nan"))
        print(
            f"{row['structure']:34} {row['d_in']}x{row['d_out']} {row['pass']:17}"
            f" einsum {row.get('median_ms', float('nan')):8.4f} torch_compile"
            f" {ratio:8.4f} {new.get('error', '')}",
            flush=True,
        )
    # Each after the row that it belongs to.
    merged = []
    for row in report["rows"]:
        merged.append(row)
        name = "einforge" if args.all else "einsum"
        if row["implementation"] == name and problem(row) in found:
            merged.append(found.pop(problem(row)))
    report["rows"] = merged
    report.setdefault("device", {})["torch_compile"] = torch.__version__
    temporary = args.file + ".part"
    with open(temporary, "w") as file:
        json.dump(report, file, indent=2)
        file.write("\n")
    os.replace(temporary, args.file)


if __name__ == "__main__":
    main()
