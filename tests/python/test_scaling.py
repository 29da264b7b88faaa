"""benchmarks/scaling.py: what it makes of traces and rows."""

import argparse
import pathlib
import sys
import unittest

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))

import scaling  # noqa: E402


def event(name, start, duration, kind="kernel"):
    return {"cat": kind, "name": name, "ts": start, "dur": duration}


class ScalingTest(unittest.TestCase):
    def test_exposed_communication(self):
        # NCCL runs from 2 to 8; kernels cover 0 to 4 and 7 to 10: 3 of 10.
        trace = {"traceEvents": [
            event("gemm", 0, 3), event("gelu", 2, 2), event("gemm", 7, 3),
            event("ncclDevKernel_AllReduce", 2, 6),
            event("cudaLaunchKernel", 0, 100, "cuda_runtime")]}
        self.assertAlmostEqual(scaling.exposed_share(trace), 0.3)
        trace["traceEvents"].pop(3)
        self.assertIsNone(scaling.exposed_share(trace))

    def test_cases(self):
        run = scaling.Scaling.__new__(scaling.Scaling)
        run.options = argparse.Namespace(
            modes=["weak", "strong-sharded", "plain"], processes=[1, 2, 4],
            widths=[32, 64], structures=["dense", "monarch"])
        cases = list(run.cases())
        self.assertEqual(len({str(case) for case in cases}), len(cases))
        # Four alone, and in each mode four by two and four by four.
        self.assertEqual([case["processes"] for case in cases],
                         [1] * 4 + ([2] * 4 + [4] * 4) * 2 + [1] * 4)
        self.assertEqual(
            [(case["kind"], case["sharded_optimizer"]) for case in cases],
            [("weak", False)] * 12 + [("strong", True)] * 8 +
            [("plain", False)] * 4)

    def test_picture_and_lines(self):
        row = {"structure": "btt_moe:E=16,k=2", "width": 64, "kind": "weak",
               "sharded_optimizer": False, "tokens_per_second": 10.0,
               "peak_memory_bytes": 2e9, "exposed_communication": 0.25}
        rows = [{**row, "processes": 1, "efficiency": 1.0},
                {**row, "processes": 2, "efficiency": 0.9}]
        picture = scaling.picture({"rows": rows})
        self.assertEqual(picture.count("<polyline"), 4)
        self.assertIn("0.90 per process, 2.0 GB, exposed 25.0%",
                      scaling.line(rows[1]))
        failed = {**row, "processes": 2, "error": "out of memory"}
        self.assertIn("out of memory", scaling.line(failed))
        scaling.picture({"rows": [failed]})


if __name__ == "__main__":
    unittest.main()
