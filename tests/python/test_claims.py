"""benchmarks/claims.py: the analysis against known laws, and the runs.

Run by ctest; by hand: EINFORGE_PROGRAM=.../einforge python test_claims.py
"""

import argparse
import contextlib
import io
import json
import math
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
PROGRAM = pathlib.Path(os.environ.get(
    "EINFORGE_PROGRAM", ROOT / "build/release/bin/einforge"))

import claims  # noqa: E402
import claims_fit as fit  # noqa: E402
import claims_report  # noqa: E402

# E, b and, of each structure, A, a, B and FLOPs per token by width.
E, BETA = 0.75, 0.35
TRUTH = {
    "dense": ((6.0, 0.5, 90.0), lambda w: 216.0 * w * w + 3000 * w),
    "sparse": ((5.5, 0.49, 91.0), lambda w: 150.0 * w ** 1.6 + 3000 * w),
}
WIDTHS = (128, 256, 512, 1024)
COST = fit.Cost({s: {w: cost(w) for w in WIDTHS}
                 for s, (_, cost) in TRUTH.items()})


def true_law():
    parameters = [math.log(E), math.log(BETA)]
    for name in sorted(TRUTH):
        parameters += [math.log(x) for x in TRUTH[name][0]]
    return fit.Law(sorted(TRUTH), np.array(parameters))


def experiment(seed, noise):
    """Runs of the true law; noise by run and, a third of it, by length."""
    random = np.random.default_rng(seed)
    law = true_law()
    runs = []
    for structure, (_, cost) in TRUTH.items():
        for width in WIDTHS:
            for of_run in range(3):
                shift = random.normal(0, noise)
                for tokens in (25e6, 50e6, 100e6):
                    loss = law.loss(structure, width, tokens) * math.exp(
                        shift + random.normal(0, noise / 3))
                    runs.append({
                        "structure": structure, "width": width,
                        "seed": of_run, "tokens": tokens, "loss": float(loss),
                        "flops_per_token": cost(width), "layers": 3,
                        "flops": cost(width) * tokens})
    return runs


def true_multiplier(losses):
    return math.exp(fit.log_multiplier(true_law(), COST, losses, "dense",
                                       "sparse"))


class StatisticsTest(unittest.TestCase):
    def test_student(self):
        for degrees, value in ((1, 12.706), (2, 4.303), (10, 2.228),
                               (30, 2.042)):
            self.assertAlmostEqual(fit.student(degrees), value,
                                   delta=0.002 * value)

    def test_holm(self):
        # Four tests: x4, x3, x2, x1, never falling.
        self.assertEqual(fit.holm([0.01, 0.04, 0.03, 0.005]),
                         [0.03, 0.06, 0.06, 0.02])

    def test_best_rate(self):
        rates = (1e-3, 2e-3, 4e-3, 8e-3)
        losses = {r: 1 + 0.1 * math.log(r / 2.5e-3) ** 2 for r in rates}
        rate, inside = fit.best_rate(losses)
        self.assertAlmostEqual(rate, 2.5e-3, places=6)
        self.assertTrue(inside)
        self.assertEqual(fit.best_rate({1e-3: 1.0, 2e-3: 2.0}), (1e-3, False))

    def test_equal_tokens(self):
        # Loss 1.5 lies halfway, in logarithms, between 3 and 0.75, hence
        # FLOPs of 1e4 halfway between 1e3 and 1e5; 5 is not bracketed.
        run = lambda s, w, f, loss: {
            "structure": s, "width": w, "flops_per_token": f, "loss": loss}
        runs = [run("dense", 1, 1e3, 3), run("dense", 2, 1e5, 0.75),
                run("x", 1, 1e3, 5), run("x", 2, 2e3, 1.5)]
        found = fit.equal_tokens(runs, "x")
        self.assertEqual(len(found), 1)
        self.assertAlmostEqual(math.exp(found[0]), 5, places=9)

    def test_mean_interval(self):
        mean, low, high = fit.mean_interval([1.0, 3.0])
        self.assertAlmostEqual(mean, 2)
        self.assertAlmostEqual(high - mean, 12.706, delta=0.02)
        self.assertAlmostEqual(mean - low, high - mean)
        self.assertIsNone(fit.mean_interval([1.0]))


class LawTest(unittest.TestCase):
    def test_derivatives_are_finite_differences(self):
        table = fit.Table(experiment(0, 0.01))
        p = true_law().parameters
        _, jacobian = table.predict(p)
        for i in range(len(p)):
            step = np.zeros(len(p))
            step[i] = 1e-6
            slope = (table.predict(p + step)[0] -
                     table.predict(p - step)[0]) / 2e-6
            np.testing.assert_allclose(jacobian[:, i], slope, atol=1e-8)

    def test_recovers_a_law_without_noise(self):
        study = fit.Study(experiment(0, 0), replicates=0)
        np.testing.assert_allclose(
            study.law.parameters, true_law().parameters, atol=1e-4)

    def test_envelope_is_the_least_of_a_grid(self):
        law = true_law()
        loss = 1.15
        best = min(
            tokens * TRUTH["dense"][1](width)
            for width in np.geomspace(128, 1024, 400)
            for tokens in np.geomspace(1e6, 1e10, 2000)
            if law.loss("dense", width, tokens) <= loss)
        found, width = fit.least_compute(law, COST, "dense", loss)
        self.assertAlmostEqual(found / best, 1, delta=0.01)
        self.assertTrue(128 <= width <= 1024)
        self.assertTrue(math.isinf(
            fit.least_compute(law, COST, "dense", 0.7)[0]))

    def test_losses_are_bracketed_twice_by_both(self):
        runs = experiment(0, 0)
        losses = fit.common_losses(runs, "dense", "sparse")
        self.assertEqual(len(losses), fit.LOSSES)
        for structure in TRUTH:
            spans = fit.brackets(runs, structure)
            for loss in losses:
                self.assertGreaterEqual(sum(
                    low <= math.log(loss) <= high for high, low in spans), 2)
        one_width = [r for r in runs
                     if r["structure"] == "dense" or r["width"] == 128]
        self.assertEqual(fit.common_losses(one_width, "dense", "sparse"), [])

    def test_intervals_cover(self):
        covered, errors = 0, []
        count = 6
        for seed in range(count):
            study = fit.Study(experiment(seed, 0.002), replicates=40)
            found = study.multiplier(COST, "dense", "sparse")
            truth = true_multiplier(found["losses"])
            low, high = found["ci95"]
            covered += low <= truth <= high
            errors.append(math.log(found["multiplier"] / truth))
            self.assertLess(high / low, 1.5)
        self.assertGreaterEqual(covered, count - 1)
        # Without bias beyond what eight experiments can show.
        self.assertLess(abs(np.mean(errors)), 0.05)

    def test_envelopes_that_are_cut_off_decide_nothing(self):
        study = fit.Study(experiment(0, 0.002), replicates=10)
        found = study.multiplier(COST, "dense", "sparse")
        self.assertEqual(found["edge"], [])
        # Wide models so cheap that the greatest width is the cheapest.
        cut = fit.Cost({
            "dense": {w: 1e5 * w ** 0.1 for w in WIDTHS},
            "sparse": {w: TRUTH["sparse"][1](w) for w in WIDTHS}})
        found = study.multiplier(cut, "dense", "sparse")
        self.assertEqual(found["edge"], ["dense"])
        decided = claims_report.of_multiplier("x", found, "holds")
        self.assertEqual(decided["verdict"], "undecided")
        self.assertIn("width: dense", decided["ours"])

    def test_says_why_there_is_none(self):
        study = fit.Study(experiment(0, 0.002), replicates=5)
        self.assertIn("no runs of monarch", study.multiplier(
            COST, "dense", "monarch")["note"])
        with self.assertRaisesRegex(ValueError, "cannot fit"):
            fit.Study(experiment(0, 0)[:5])


class ReportTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        options = argparse.Namespace(
            stages=["fit"], scale="cpu", program=PROGRAM,
            config=ROOT / "benchmarks/claims/claims.toml", data=None, out=self.folder, results=self.folder, minutes=math.inf,
            set=[], structures=[], widths=[], parts=[], bootstrap=20,
            predict=["monarch@2048"], page=None, dry_run=False)
        self.experiment = claims.Experiment(options)

    def run_fit(self):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self.experiment.run()
        return json.loads((self.folder / "fit.json").read_text()), (
            printed.getvalue())

    def test_nothing_run_is_undecided(self):
        result, printed = self.run_fit()
        self.assertEqual({c["verdict"] for c in result["claims"]},
                         {"undecided"})
        self.assertIn("| not run | undecided |", printed)

    def test_tables_decide(self):
        # Monarch is the "sparse" law, BTT-MoE 16 one of a third of the FLOPs.
        cells = []
        for run in experiment(1, 0.002):
            for structure, share in ((("dense", 1),) if
                                     run["structure"] == "dense" else
                                     (("monarch", 1),
                                      (claims.MOE16, 1 / 3))):
                flops = run["flops"] * share
                cells.append({
                    **run, "structure": structure, "stage": "S2",
                    "part": "cool_4", "flops": flops, "status": "done",
                    "flops_per_token": flops / run["tokens"]})
        for cell in cells:
            cell["tokens"] = int(cell["tokens"])
        self.experiment.write("S2", cells)
        rates = [{"stage": "S1", "part": "rates", "structure": "dense",
                  "width": width, "learning_rate": rate, "status": "done",
                  "seed": 0, "loss": 1 + math.log(rate / best) ** 2}
                 for width, best in ((256, 2e-3), (1024, 2.5e-3))
                 for rate in (1e-3, 2e-3, 4e-3)]
        self.experiment.write("S1", rates)
        seconds = [{"stage": "S7", "part": "seconds", "structure": s,
                    "width": w, "layers": 6, "seconds": t, "status": "done"}
                   for s, w, t in (("dense", 512, 1), ("dense", 2048, 4),
                                   (claims.MOE16, 512, 2),
                                   (claims.MOE16, 2048, 3))]
        self.experiment.write("S7", seconds)
        result, _ = self.run_fit()
        by = {claim["claim"]: claim for claim in result["claims"]}
        primary = by["BTT-MoE 16 needs fewer FLOPs than dense"]
        self.assertEqual(primary["verdict"], "holds")
        multiplier = primary["result"]["multiplier"]
        self.assertAlmostEqual(
            multiplier / true_multiplier(primary["result"]["losses"]) / 3, 1,
            delta=0.1)
        self.assertEqual(
            by["the best learning rate transfers between widths (within a "
               "factor of 2)"]["verdict"], "holds")
        step = by["BTT-MoE 16's step is no slower than dense's from some width "
                  "on"]
        self.assertIn("from 2048", step["ours"])
        # S7 has no steps of 3 layers: no multipliers in seconds.
        self.assertEqual(by["BTT-MoE 16 needs fewer seconds than dense"][
            "verdict"], "undecided")
        self.assertTrue((self.folder / "rates.svg").exists())
        self.assertEqual(result["predictions"][0]["width"], 2048)
        # Another method, over other losses: the order of magnitude.
        hull = result["hull"]["dense"][claims.MOE16]["multiplier"]
        self.assertLess(abs(math.log(hull / multiplier)), math.log(2))

    def test_predictions_come_before_their_runs(self):
        options = self.experiment.options
        options.predict, options.page = ["sparse@2048"], self.folder / "page.md"
        options.page.write_text("# Page\n\nText.\n")
        runs = [{**run, "stage": "S2", "part": "cool_4", "status": "done",
                 "tokens": int(run["tokens"])}
                for run in experiment(2, 0.002)]
        self.experiment.write("S2", runs)
        result, _ = self.run_fit()
        made = result["predictions"][0]
        law = true_law()
        # The truth lies within, and the interval is of use.
        truth = float(law.loss("sparse", 2048, made["tokens"]))
        self.assertTrue(made["ci95"][0] < truth < made["ci95"][1])
        self.assertLess(made["ci95"][1] / made["ci95"][0], 1.15)
        before = options.page.read_text()
        self.assertTrue(before.startswith("# Page\n\nText.\n\n## Predictions"))
        self.assertIn(f"| sparse | 2048 | {made['tokens']} | "
                      f"{made['loss']:.4f} (", before)
        self.assertIn("its widths 128, 256, 512, 1024 | not run |", before)
        # What was measured later stands beside it, unchanged.
        later = [{**runs[-1], "width": 2048, "tokens": made["tokens"],
                  "seed": seed, "loss": loss, "flops_per_token": 1e9}
                 for seed, loss in ((0, made["loss"]), (1, 9.0))]
        self.experiment.write("S2", runs + later)
        with self.assertRaisesRegex(SystemExit, "has run already"):
            self.run_fit()
        options.predict = []
        self.run_fit()
        self.assertEqual(
            options.page.read_text(), before.replace(
                "not run", f"{made['loss']:.4f}, 9.0000: 1 of 2 within"))

    def test_some_of_a_stage(self):
        options = argparse.Namespace(**{
            **vars(self.experiment.options), "scale": "gpu", "dry_run": True,
            "stages": ["S1", "S2"], "structures": ["dense", claims.MOE16],
            "widths": [1024], "parts": [], "predict": []})
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            claims.Experiment(options).run()
        searches = [line for line in printed.getvalue().splitlines()
                    if "s1/rates" in line or "s2/trunk" in line]
        self.assertEqual(len(searches), 2)
        for line in searches:
            self.assertIn("widths=[1024]", line)
            self.assertIn(f'structures=["dense", "{claims.MOE16}"]', line)
        options.parts = ["rates"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            claims.Experiment(options).S1()
        self.assertEqual(len(printed.getvalue().splitlines()), 1)

    def test_equality_by_two_tests(self):
        decide = claims_report.decide_equal
        self.assertEqual(decide({"ci90": [.9, 1.1], "ci95": [.8, 1.3]}),
                         "holds")
        self.assertEqual(decide({"ci90": [.7, 1.1], "ci95": [.6, 1.2]}),
                         "undecided")
        self.assertEqual(decide({"ci90": [.5, .7], "ci95": [.4, .75]}),
                         "refuted")


class RunTest(unittest.TestCase):
    """Trunk, branches and continuing, with a model that takes seconds."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        text = self.folder / "text.txt"
        text.write_text((ROOT / "examples/data/devil.txt").read_text())
        settings = {
            "train.device": "cpu", "train.dtype": "float32",
            "train.model.layers": 1, "train.model.context": 16,
            "train.model.head_width": 16, "train.data.batch_size": 4,
            "train.eval_batches": 1, "train.schedule.warmup_steps": 3,
            "workers": 1}
        scale = {**claims.SCALES["cpu"], "settings": settings,
                 "main": {"dense": [16], "monarch": [16]},
                 "main_tokens": 40 * 64}
        self.enterContext(unittest.mock.patch.dict(
            claims.SCALES, {"test": scale}))
        self.options = argparse.Namespace(
            stages=["S2"], scale="test", program=PROGRAM,
            config=ROOT / "benchmarks/claims/claims.toml", text=text, data=None,
            out=self.folder / "out", results=self.folder / "results",
            minutes=math.inf, set=[], structures=[], widths=[], parts=[],
            bootstrap=20, predict=[], page=None, dry_run=False)
        os.environ["OMP_NUM_THREADS"] = "1"
        # As S1 would have found.
        experiment = claims.Experiment(self.options)
        experiment.write("S1", [
            {"part": "rates", "status": "done", "structure": s, "width": 16,
             "learning_rate": r, "loss": loss}
            for s in ("dense", "monarch") for r, loss in ((2e-3, 2), (4e-3, 1))])

    def run_stage(self, **changes):
        options = argparse.Namespace(**{**vars(self.options), **changes})
        experiment = claims.Experiment(options)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            experiment.run()
        return experiment.table("S2"), printed.getvalue()

    def test_branches_equal_whole_runs_and_stores_go_on(self):
        rows, printed = self.run_stage(minutes=0)
        self.assertIn("out of time", printed)
        self.assertEqual(rows, [])
        rows, _ = self.run_stage()
        self.assertEqual(
            sorted((r["structure"], r["part"], r["steps"]) for r in rows),
            sorted((s, f"cool_{n}", 10 * n) for s in ("dense", "monarch")
                   for n in (1, 2, 4)))
        self.assertEqual({r["learning_rate"] for r in rows}, {4e-3})
        self.assertEqual(
            list((self.folder / "out").glob("s2/*/trials/*/checkpoints")), [])
        # On another machine there are only the results.
        again, printed = self.run_stage(out=self.folder / "elsewhere",
                                        data=self.folder / "out/data")
        self.assertEqual(again, rows)
        self.assertNotIn("cool_1:", printed)
        # Without trunks the same cool-downs are trained whole.
        with unittest.mock.patch.object(claims.Experiment, "branch",
                                        lambda *_: None):
            whole, _ = self.run_stage(out=self.folder / "whole",
                                      data=self.folder / "out/data",
                                      results=self.whole_results())
        key = lambda r: (r["structure"], r["part"])
        for a, b in zip(sorted(rows, key=key), sorted(whole, key=key)):
            self.assertEqual((key(a), a["loss"]), (key(b), b["loss"]))

    def whole_results(self):
        folder = self.folder / "whole_results"
        folder.mkdir()
        (folder / "S1.csv").write_bytes(
            (self.folder / "results/S1.csv").read_bytes())
        return folder


if __name__ == "__main__":
    unittest.main()
