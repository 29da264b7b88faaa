"""einforge.search: other programs propose, or train.

Run by ctest; by hand: EINFORGE_PROGRAM=.../einforge
EINFORGE_LIBRARY=.../libeinforge_python.so python test_search.py
"""

import json
import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault(
    "EINFORGE_PROGRAM", str(ROOT / "build/release/bin/einforge"))

from einforge.search import Search  # noqa: E402

CONFIG = {
    "structures": ["dense", "monarch"],
    "widths": [16, 32],
    "budget": {"tokens": 2000},
    "curve_points": 4,
    "bootstrap": 0,
    "scheduler": {"kind": "asha", "rungs": 2, "eta": 2},
    "train": {"device": "cpu", "model": {"kind": "mlp", "layers": 1}},
}


class SearchTest(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.folder = pathlib.Path(self.scratch.name)
        path = self.folder / "search.json"
        path.write_text(json.dumps(CONFIG))
        self.path = path

    def test_einforge_proposes(self):
        search = Search(self.path, out=self.folder / "asked")
        rungs = {}
        first = search.ask(2)
        self.assertEqual(first, search.ask(2))
        while trials := search.ask(2):
            trial = trials[0]
            self.assertEqual(trial["rung"], rungs.get(trial["id"], 0))
            loss = trial["width"] + trial["rung"]
            [answer] = search.tell([{"id": trial["id"], "loss": loss}])
            rungs[trial["id"]] = answer["rung"]
            self.assertLess(len(rungs), 10)
        self.assertEqual(sorted(rungs.values()), [1, 1, 2, 2])
        with self.assertRaisesRegex(RuntimeError, "a trial that 'ask' names"):
            search.tell([{"id": "nobody", "loss": 1}])

    def test_others_propose(self):
        search = Search(
            self.path, out=self.folder / "told",
            settings={"learning_rates": [2e-3]})
        first, second = search.train([
            {"structure": "btt:0.1", "width": 24, "rungs": 1},
            {"structure": "dense"}])
        self.assertEqual(first["status"], "pruned")
        self.assertEqual(second["status"], "done")
        self.assertEqual(second["width"], 16)
        self.assertEqual(second["learning_rate"], 2e-3)
        self.assertEqual(second["curve"][-1][3], second["loss"])
        # Trained on, not again.
        [on] = search.train([{"structure": "btt:0.1", "width": 24}])
        self.assertEqual((on["id"], on["status"]), (first["id"], "done"))
        self.assertEqual(on["curve"][:len(first["curve"])], first["curve"])
        with self.assertRaisesRegex(RuntimeError, "did you mean 'dense'"):
            search.train([{"structure": "dens"}])


if __name__ == "__main__":
    unittest.main()
