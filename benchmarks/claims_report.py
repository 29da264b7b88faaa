"""Stage fit of claims.py: tables in, fit.json, rates.svg and a table of claims
out. docs/design/experiments.md states the rules that were fixed beforehand."""

import html
import json
import math
import subprocess
import sys

from claims_fit import EQUAL, Cost, Study, best_rate, equal_tokens, holm
from claims_fit import mean_interval
from experiment import environment

MAIN = ("S2", "S3", "S4")
MOE8, MOE16 = "btt_moe:E=8,k=2", "btt_moe:E=16,k=2"
FFN8, FFN16 = "ffn_moe:E=8,k=2", "ffn_moe:E=16,k=2"
# (claim, structure, over which baseline); the first is the primary one.
LARGER = [("BTT-MoE 16 needs fewer {} than dense", MOE16, "dense"),
          ("BTT-MoE 8 needs fewer {} than FFN MoE 8", MOE8, FFN8),
          ("BTT-MoE 16 needs fewer {} than FFN MoE 16", MOE16, FFN16),
          ("FFN MoE 8 needs fewer {} than dense", FFN8, "dense"),
          ("BTT-MoE 16 needs fewer {} than BTT-MoE 8", MOE16, MOE8)]


BEGIN = "<!-- predictions, written by benchmarks/claims.py -->"
END = "<!-- end of predictions -->"


def good(rows):
    return [row for row in rows if row["status"] == "done" and row["loss"]]


def decide_larger(low, high, p=0.0):
    """Of a multiplier that is claimed to be above 1."""
    if low > 1 and p <= 0.05:
        return "holds"
    return "refuted" if high < 1 else "undecided"


def decide_equal(result):
    """By two one-sided tests: the 90% interval within the bounds."""
    if EQUAL[0] <= result["ci90"][0] and result["ci90"][1] <= EQUAL[1]:
        return "holds"
    low, high = result["ci95"]
    return "refuted" if high < EQUAL[0] or low > EQUAL[1] else "undecided"


def main_runs(experiment):
    return [row for stage in MAIN for row in good(experiment.table(stage))
            if row["part"].startswith("cool_")]


def costs(experiment, runs):
    """FLOPs per token of the runs; seconds per token of S7, alone and as
    deep."""
    flops, seconds = {}, {}
    for run in runs:
        flops.setdefault(run["structure"], {})[run["width"]] = (
            run["flops_per_token"])
    layers = {run["layers"] for run in runs}
    for row in experiment.table("S7"):
        if row["status"] == "done" and row["layers"] in layers:
            seconds.setdefault(row["structure"], {})[row["width"]] = (
                row["seconds"] / row["tokens"])
    return {"flops": Cost(flops),
            "seconds": Cost({s: w for s, w in seconds.items() if len(w) > 1})}


def of_multiplier(name, result, verdict):
    """The claim that a multiplier decides, unless its envelope is cut off."""
    ours = times(result["multiplier"], result["ci95"])
    if result["edge"]:
        ours += (f"; cheapest at the least or greatest width: "
                 f"{', '.join(result['edge'])}")
        verdict = "undecided"
    return claim(name, ours, verdict, result=result)


def claim(name, ours, verdict, **more):
    return {"claim": name, "ours": ours, "verdict": verdict, **more}


def times(value, interval):
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def larger_claims(study, cost, metric, progress):
    """One of each pair, Holm-corrected but for the primary one."""
    results = []
    for name, structure, baseline in LARGER:
        progress(f"{metric}: {structure} over {baseline}")
        result = study.multiplier(cost, baseline, structure)
        results.append((name, result))
    secondary = [r for _, r in results[1:] if r["multiplier"]]
    for result, p in zip(secondary, holm([r["p"] for r in secondary])):
        result["p_holm"] = p
    claims = []
    for name, result in results:
        if not result["multiplier"]:
            claims.append(claim(name.format(metric), result["note"],
                                "undecided", result=result))
            continue
        claims.append(of_multiplier(
            name.format(metric), result,
            decide_larger(*result["ci95"], result.get("p_holm", 0.0))))
    return claims


def equal_claim(study, cost, metric):
    result = study.multiplier(cost, "dense", "monarch")
    name = f"Monarch needs as many {metric} as dense (0.8 to 1.25)"
    if not result["multiplier"]:
        return claim(name, result["note"], "undecided", result=result)
    return of_multiplier(name, result, decide_equal(result))


def hull(experiment, runs, folder):
    """The same multipliers by `einforge fit`: the hull of the cooled points."""
    path = folder / "points.csv"
    lines = ["structure,run,compute,loss,tokens,model"]
    for run in sorted(runs, key=lambda r: (r["structure"], r["width"],
                                           r["seed"], r["tokens"])):
        quote = f'"{run["structure"]}"'
        lines.append(f'{quote},d{run["width"]} seed {run["seed"]},'
                     f'{run["flops"]:.6e},{run["loss"]:.6f},'
                     f'{run["tokens"]:.0f},d{run["width"]}')
    path.write_text("\n".join(lines) + "\n")
    if not experiment.program.exists():
        return {"note": "the program is not built"}
    found = {}
    for baseline in sorted({b for _, _, b in LARGER} &
                           {run["structure"] for run in runs}):
        done = subprocess.run(
            [str(experiment.program), "fit", str(path), "--baseline", baseline,
             "--json"], env=environment(experiment.program), check=False,
            capture_output=True, text=True)
        if done.returncode != 0:
            found[baseline] = {"note": done.stderr.strip()}
            continue
        found[baseline] = {
            s["structure"]: {"multiplier": s["compute_multiplier"],
                             "ci95": s["ci95"], "note": s["note"]}
            for s in json.loads(done.stdout)["structures"]
            if s["structure"] != baseline}
    return found


def held_out(runs, replicates):
    """Of each structure its largest width at its longest, as predicted by the
    law of all other runs."""
    found = []
    for structure in sorted({run["structure"] for run in runs}):
        widths = sorted({r["width"] for r in runs
                         if r["structure"] == structure})
        if len(widths) < 3:
            continue
        rest = [r for r in runs if r["structure"] != structure or
                r["width"] != widths[-1]]
        out = [r for r in runs if r["structure"] == structure and
               r["width"] == widths[-1]]
        longest = max(r["tokens"] for r in out)
        losses = [r["loss"] for r in out if r["tokens"] == longest]
        try:
            prediction = Study(rest, replicates).predict(
                structure, widths[-1], longest)
        except ValueError:
            continue
        found.append({**prediction, "measured": losses})
    return found


def predictions(experiment, study, runs):
    """Of --predict: losses after D tokens of what has not run."""
    tokens = (4 * experiment.main_steps(experiment.scale["main_tokens"]) *
              experiment.tokens_per_step())
    found = []
    for text in experiment.options.predict:
        structure, _, width = text.rpartition("@")
        if structure not in study.law.structures:
            sys.exit(f"claims: no runs of {structure} to predict others from")
        own = sorted({r["width"] for r in runs if r["structure"] == structure})
        if int(width) in own:
            sys.exit(f"claims: {structure} at width {width} has run already; "
                     "a prediction comes before its run")
        found.append({**study.predict(structure, int(width), tokens),
                      "fitted_to": f"{len(runs)} runs, its widths "
                                   f"{', '.join(map(str, own))}"})
    return found


def write_predictions(page, made, runs):
    """Adds predictions to the page's table, and to all in it what was measured
    since; what was predicted once stays."""
    text = page.read_text()
    before, marked, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    table = [[cell.strip() for cell in line.strip("| ").split("|")]
             for line in inside.splitlines() if line.startswith("| ")][1:]
    known = {tuple(row[:3]) for row in table}
    for one in made:
        row = [one["structure"], str(one["width"]), str(one["tokens"]),
               f"{one['loss']:.4f} ({one['ci95'][0]:.4f} to "
               f"{one['ci95'][1]:.4f})", one["fitted_to"], "not run"]
        if tuple(row[:3]) not in known:
            table.append(row)
    if not table:
        return
    for row in table:
        low, high = map(float, row[3].split("(")[1].rstrip(")").split(" to "))
        losses = [run["loss"] for run in runs
                  if [run["structure"], str(run["width"]),
                      f"{run['tokens']:.0f}"] == row[:3]]
        if losses:
            within = sum(low <= loss <= high for loss in losses)
            row[5] = (", ".join(f"{loss:.4f}" for loss in losses) +
                      f": {within} of {len(losses)} within")
    if not marked:
        before = text.rstrip("\n") + "\n\n## Predictions before their runs\n\n"
        after = "\n"
    lines = ["", "| structure | width | tokens | predicted loss (95% of one run)"
             " | fitted to | measured |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in table]
    page.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


def sweep_claims(rows):
    """Of the thetas: multipliers at equal tokens, by kind."""
    if not rows:
        name = "not run"
        return [claim(text, name, "undecided") for text in (
            "omega > 0 is worse than dense", "psi < 1 is worse than dense",
            "omega = 0 and psi = 1 equal dense")], {}
    kinds = {"omega > 0": [], "psi < 1": [], "omega = 0, psi = 1": []}
    each = {}
    for structure in sorted({row["structure"] for row in rows} - {"dense"}):
        own = [row for row in rows if row["structure"] == structure]
        found = equal_tokens(rows, structure)
        omega = max(row["omega"] for row in own)
        psi = min(row["psi"] for row in own)
        kind = ("omega > 0" if omega > 0.03 else
                "psi < 1" if psi < 0.97 else "omega = 0, psi = 1")
        each[structure] = {"kind": kind, "omega": omega, "psi": psi,
                           "multipliers": [math.exp(x) for x in found]}
        if found:
            kinds[kind].append(sum(found) / len(found))
    claims = []
    for kind, text in (("omega > 0", "omega > 0 is worse than dense"),
                       ("psi < 1", "psi < 1 is worse than dense"),
                       ("omega = 0, psi = 1",
                        "omega = 0 and psi = 1 equal dense")):
        interval = mean_interval(kinds[kind])
        if not interval:
            claims.append(claim(text, "too few thetas whose losses dense's "
                                "widths bracket", "undecided"))
            continue
        value, low, high = map(math.exp, interval)
        if kind == "omega = 0, psi = 1":
            # A 95% interval within the bounds: stricter than the 90% one.
            verdict = decide_equal({"ci90": (low, high), "ci95": (low, high)})
        else:
            verdict = ("holds" if high < 1 else
                       "refuted" if low > 1 else "undecided")
        claims.append(claim(
            text, f"{times(value, (low, high))} over {len(kinds[kind])} thetas",
            verdict))
    return claims, each


def base_claims(rows):
    name = "BTT experts need less than {} experts, equal E and tokens"
    claims, each = [], {}
    for base, label in (("dense_moe", "dense"), ("low_rank_moe", "low-rank"),
                        ("ffn_moe", "FFN")):
        logs = []
        for experts in (8, 16):
            other = f"{base}:E={experts},k=2"
            ours = f"btt_moe:E={experts},k=2"
            logs += equal_tokens(rows, ours, other)
        each[label] = [math.exp(x) for x in logs]
        interval = mean_interval(logs)
        if interval:
            value, low, high = map(math.exp, interval)
            claims.append(claim(name.format(label), times(value, (low, high)),
                                decide_larger(low, high)))
        else:
            claims.append(claim(
                name.format(label), "not run" if not rows else
                "too few losses that the other's widths bracket", "undecided"))
    return claims, each


def rate_tables(rows):
    """Losses by structure, width and rate, the best rate of each, and whether
    it transfers: within a factor of two from the least width to the
    greatest."""
    rates = {}
    for row in good(rows):
        if row["part"] == "rates":
            rates.setdefault(row["structure"], {}).setdefault(
                row["width"], {})[row["learning_rate"]] = row["loss"]
    table, shifts, edges = [], [], False
    for structure, widths in sorted(rates.items()):
        best = {}
        for width, losses in sorted(widths.items()):
            rate, inside = best_rate(losses)
            edges |= not inside
            best[width] = rate
            table.append({
                "structure": structure, "width": width,
                "losses": {f"{r:g}": losses[r] for r in sorted(losses)},
                "best_rate": rate, "inside_grid": inside})
        if len(best) > 1:
            shifts.append((structure, best[max(best)] / best[min(best)]))
    if not shifts:
        return table, claim("the best learning rate transfers between widths",
                            "not run", "undecided")
    ours = ", ".join(f"{s} x{ratio:.2f}" for s, ratio in shifts)
    within = all(0.5 <= ratio <= 2 for _, ratio in shifts)
    # A best rate at the edge of the grid is only a bound.
    verdict = "undecided" if edges else "holds" if within else "refuted"
    return table, claim("the best learning rate transfers between widths "
                        "(within a factor of 2)", ours, verdict)


def step_claim(rows):
    """The least width from which on BTT-MoE's step is no slower."""
    name = "BTT-MoE 16's step is no slower than dense's from some width on"
    by = {(r["structure"], r["width"], r["layers"]): r["seconds"]
          for r in rows if r["status"] == "done"}
    ratios = sorted((layers, width, by["dense", width, layers] / seconds)
                    for (s, width, layers), seconds in by.items()
                    if s == MOE16 and ("dense", width, layers) in by)
    if not ratios:
        return claim(name, "not run", "undecided")
    deepest = max(layers for layers, _, _ in ratios)
    own = [(w, r) for layers, w, r in ratios if layers == deepest]
    text = ", ".join(f"{w}: {r:.2f}" for w, r in own)
    from_width = None
    for width, ratio in reversed(own):
        if ratio < 1:
            break
        from_width = width
    return claim(
        name, f"dense's time over BTT-MoE's by width ({deepest} layers): {text}"
        + (f"; from {from_width}" if from_width else ""),
        "holds" if from_width else "refuted")


def noise(rows):
    """Standard deviation of log losses between seeds, by structure."""
    groups = {}
    for row in good(rows):
        if row["part"] in ("noise", "rates"):
            groups.setdefault((row["structure"], row["width"],
                               row["learning_rate"]), []).append(
                                   math.log(row["loss"]))
    found = {}
    for (structure, _, _), logs in groups.items():
        if len(logs) > 1:
            mean = sum(logs) / len(logs)
            found[structure] = math.sqrt(
                sum((x - mean) ** 2 for x in logs) / (len(logs) - 1))
    return found


def rates_svg(table):
    """Loss over learning rate, a line for each width, a panel for each
    structure."""
    structures = sorted({row["structure"] for row in table})
    widths = sorted({row["width"] for row in table})
    colours = ["#2456c7", "#b3372f", "#1a7f4b", "#8a5a00", "#6b3fa0"]
    panel, gap, top = 230, 20, 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="'
        f'{len(structures) * (panel + gap) + gap}" height="{top + 250}" '
        'font-family="system-ui, sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>']
    for i, width in enumerate(widths):
        out.append(f'<text x="{gap + 110 * i}" y="20" fill="'
                   f'{colours[i % 5]}">width {width}</text>')
    for place, structure in enumerate(structures):
        rows = [row for row in table if row["structure"] == structure]
        losses = [x for row in rows for x in row["losses"].values()]
        rates = [float(x) for row in rows for x in row["losses"]]
        low, high = min(losses), max(losses)
        left = gap + place * (panel + gap)
        x = lambda rate: left + 30 + (panel - 40) * (
            math.log(rate / min(rates)) /
            (math.log(max(rates) / min(rates)) or 1))
        y = lambda loss: top + 200 - 180 * (loss - low) / ((high - low) or 1)
        out.append(f'<text x="{left}" y="{top - 8}" font-weight="600">'
                   f"{html.escape(structure)}</text>"
                   f'<text x="{left}" y="{y(low):.0f}">{low:.3g}</text>'
                   f'<text x="{left}" y="{y(high):.0f}">{high:.3g}</text>')
        for rate in sorted(set(rates)):
            out.append(f'<text x="{x(rate):.0f}" y="{top + 222}" '
                       f'text-anchor="middle" fill="#5d636d">{rate:g}</text>')
        for row in rows:
            colour = colours[widths.index(row["width"]) % 5]
            points = " ".join(
                f"{x(float(r)):.1f},{y(loss):.1f}"
                for r, loss in row["losses"].items())
            out.append(f'<polyline points="{points}" fill="none" '
                       f'stroke="{colour}" stroke-width="2"/>')
            best = min(row["losses"], key=row["losses"].get)
            out.append(f'<circle cx="{x(float(best)):.1f}" '
                       f'cy="{y(row["losses"][best]):.1f}" r="4" '
                       f'fill="{colour}"/>')
    out.append("</svg>\n")
    return "\n".join(out)


def report(experiment):
    options = experiment.options
    folder = experiment.results
    say = lambda text: print(f"--- fit: {text}", flush=True)
    runs = main_runs(experiment)
    result = {"scale": options.scale, "runs": len(runs)}
    claims = []
    study, why = None, "not run"
    cost = {}  # by metric
    if runs:
        say(f"one law of {len(runs)} runs, {options.bootstrap} replicates")
        try:
            study = Study(runs, options.bootstrap)
            cost = costs(experiment, runs)
        except ValueError as error:
            why = str(error)
    for metric in ("FLOPs", "seconds"):
        if study:
            of_metric = cost[metric.lower()]
            claims += larger_claims(study, of_metric, metric, say)
            claims.append(equal_claim(study, of_metric, metric))
        else:
            claims += [claim(name.format(metric), why, "undecided")
                       for name, _, _ in LARGER]
    if study:
        result["law"] = study.to_json()
        result["predictions"] = predictions(experiment, study, runs)
        if options.page:
            write_predictions(options.page, result["predictions"], runs)
        result["over_dense"] = {
            structure: study.multiplier(cost["flops"], "dense", structure)
            for structure in study.law.structures if structure != "dense"}
        say("the hull, by einforge fit")
        result["hull"] = hull(experiment, runs, folder)
        say("largest widths held out")
        result["held_out"] = held_out(runs, max(50, options.bootstrap // 5))
    sweep, result["sweep"] = sweep_claims(good(experiment.table("S5")))
    bases, result["bases"] = base_claims(good(experiment.table("S6")))
    table, transfer = rate_tables(experiment.table("S1"))
    result["rates"] = table
    result["noise"] = noise(experiment.table("S1"))
    claims = sweep + claims + bases + [transfer,
                                       step_claim(experiment.table("S7"))]
    result["claims"] = claims
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fit.json").write_text(json.dumps(result, indent=1) + "\n")
    if table:
        (folder / "rates.svg").write_text(rates_svg(table))
    print("\n| claim | ours (95% interval) | verdict |\n|---|---|---|")
    for one in claims:
        print(f"| {one['claim']} | {one['ours']} | {one['verdict']} |")
    for one in result.get("predictions", []):
        print(f"\n{one['structure']} at width {one['width']} after "
              f"{one['tokens']:.3g} tokens: loss {one['loss']:.4f} "
              f"({one['ci95'][0]:.4f} to {one['ci95'][1]:.4f})")
