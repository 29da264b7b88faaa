"""Conversion of trained layers, against independent references.

Run by ctest; by hand: EINFORGE_LIBRARY=.../libeinforge_python.so python
test_convert.py
"""

import copy
import math
import pathlib
import sys
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import torch  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import einforge  # noqa: E402
from einforge import convert, nn  # noqa: E402
from einforge.projection import matrix, project, project_mixture  # noqa: E402


def fly_projection(m):
    """The projection to Monarch of square matrices that HazyResearch/fly has
    (blockdiag_butterfly_projection.py), whose columns are (block, place)."""
    n = math.isqrt(len(m))
    slices = m.reshape(n, n, n, n).permute(1, 2, 0, 3)  # p k, r s -> k r p s
    u, s, v = torch.linalg.svd(slices)
    near = (u[..., :1] * s[..., None, :1]) @ v[..., :1, :]
    return near.permute(2, 0, 1, 3).reshape(m.shape)


class Projection(unittest.TestCase):
    def test_of_square_rank_1_is_flys(self):
        torch.manual_seed(0)
        for n in (2, 3, 5, 8):
            w = torch.randn(n * n, n * n, dtype=torch.float64)
            found = project(w, einforge.Sizes(
                alpha=n, gamma=n, epsilon=n, phi=n))
            got = matrix(found.core_a, found.core_b)
            # Our columns are (place, block).
            order = torch.arange(n * n).reshape(n, n).T.flatten()
            torch.testing.assert_close(got[:, order], fly_projection(w[:, order]))

    def test_of_rank_1_is_the_best_of_a_search(self):
        """Slices of 2 x 2: the best rank-1 matrix along each direction."""
        torch.manual_seed(1)
        angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
        direction = torch.stack((angle.cos(), angle.sin()))  # (2, angles)
        for _ in range(5):
            w = torch.randn(4, 4, dtype=torch.float64)
            squared = 0.0
            for f in range(2):
                for g in range(2):
                    part = w[f::2, g::2]
                    left = (direction.T @ part).square().sum(-1)
                    squared += float(part.square().sum() - left.max())
            found = project(w, einforge.Sizes(
                alpha=2, gamma=2, epsilon=2, phi=2))
            error = found.errors[-1] * float(w.norm())
            self.assertLess(error, math.sqrt(squared) + 1e-12)
            self.assertGreater(error, math.sqrt(squared) - 1e-6)

    def test_survives_rounding_to_half_precision(self):
        torch.manual_seed(2)
        exact = nn.Linear(64, 96, "btt:0.25", dtype=torch.float64).merged()
        for dtype, bound in ((torch.bfloat16, 6e-3), (torch.float16, 8e-4)):
            for scale in (1e-2, 1.0, 30.0):
                layer = nn.Linear(64, 96, "btt:0.25", dtype=dtype)
                layer.load_matrix(scale * exact)
                # Half of the last place of either core, at most.
                gap = layer.double().merged() - scale * exact
                self.assertLess(
                    float(gap.norm() / (scale * exact).norm()), bound)


def clustered(tokens, width, clusters):
    """Inputs in subspaces of their own, as those of a mixture's experts."""
    draw = torch.Generator().manual_seed(3)
    basis = torch.randn(clusters, 6, width, generator=draw)
    own = torch.randint(clusters, (tokens,), generator=draw)
    x = torch.randn(tokens, 1, 6, generator=draw)
    centre = 4 * torch.randn(clusters, width, generator=draw)
    return (x @ basis[own])[:, 0] + centre[own]


class MixtureProjection(unittest.TestCase):
    def test_is_nearer_than_one_expert(self):
        x = clustered(2000, 32, 4)
        torch.manual_seed(4)
        w = torch.randn(48, 32)
        one = nn.Linear(32, 48, "btt:0")
        alone = one.load_matrix(w, (x.T @ x).double()).errors[-1]
        for structure in ("btt_moe:E=4,k=1", "btt_moe:E=4,k=2",
                          "low_rank_moe:E=4,k=1,rho=4"):
            layer = nn.MoeLinear(32, 48, structure, bias=False).eval()
            error = layer.load_matrix(w, x).errors[-1]
            want = x @ w.T
            got = float((layer(x).detach() - want).norm() / want.norm())
            self.assertAlmostEqual(got, error, delta=1e-4)
            if structure == "btt_moe:E=4,k=1":
                self.assertLess(error, 0.7 * alone)

    def test_finds_clusters_that_there_are(self):
        x = clustered(2000, 32, 4)
        s = einforge.describe("low_rank_moe:E=4,k=1,rho=7", 32, 48)
        w = torch.randn(48, 32)
        # Each cluster spans 7 dimensions, so that rank 7 holds all of it.
        found = project_mixture(w, s.sizes, x, 4, 1, softmax_first=True)
        self.assertLess(found.errors[-1], 0.02)

    def test_needs_inputs(self):
        with self.assertRaisesRegex(ValueError, r"\(n, 32\).*\(3, 32\)"):
            nn.MoeLinear(32, 48, "btt_moe:E=4,k=2").load_matrix(
                torch.randn(48, 32), torch.randn(3, 32))
        model = torch.nn.Sequential(torch.nn.Linear(32, 32))
        report = einforge.convert_(model, "btt_moe:E=4,k=2", measure=False)
        self.assertIn("calibration", report[0].skipped)
        x = torch.randn(64, 32)
        report = einforge.convert_(
            model, "btt_moe:E=4,k=2", measure=False,
            calibration=lambda m: m(x))
        self.assertEqual(report[0].skipped, "")
        self.assertIsInstance(model[0], nn.MoeLinear)


class Conv1D(torch.nn.Module):
    """As transformers has it: y = x weight + bias."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = torch.nn.Parameter(torch.randn(nx, nf) / nx ** 0.5)
        self.bias = torch.nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Model(unittest.TestCase):
    def test_conv1d_is_transposed(self):
        torch.manual_seed(5)
        model = torch.nn.Sequential(Conv1D(96, 64))
        exact = nn.Linear(64, 96, "monarch").merged()
        with torch.no_grad():
            model[0].weight.copy_(exact.T)
        x = torch.randn(5, 64)
        want = model(x)
        report = einforge.convert_(model, "monarch", measure=False)
        self.assertEqual(report[0][1:3], (64, 96))
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)

    def test_keeps_dtype_mode_and_gradients(self):
        torch.manual_seed(6)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)).bfloat16().eval()
        model[0].weight.requires_grad_(False)
        einforge.convert_(model, "btt:0.25", measure=False)
        self.assertFalse(model[0].training)
        self.assertEqual({p.dtype for p in model.parameters()},
                         {torch.bfloat16})
        self.assertFalse(model[0].core_a.requires_grad)
        self.assertTrue(model[0].bias.requires_grad)
        self.assertTrue(model[1].core_a.requires_grad)

    def test_replaces_a_shared_module_under_all_names(self):
        shared = torch.nn.Linear(64, 64)
        model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(
            torch.nn.ReLU(), shared)})
        report = einforge.convert_(model, "monarch", measure=False)
        self.assertEqual(len(report), 1)
        self.assertIs(model["a"], model["b"][1])
        self.assertIsInstance(model["a"], nn.Linear)
        layer = model["a"]
        nn.merge_(model)
        self.assertIs(model["a"], model["b"][1])
        self.assertIs(type(model["a"]), torch.nn.Linear)
        self.assertTrue(torch.equal(model["a"].weight, layer.merged()))
        self.assertTrue(torch.equal(
            nn.merge_(layer).weight, model["a"].weight))

    def test_inside_torchs_own_transformer(self):
        """Its attention, and its fused inference, read the weights of layers."""
        torch.manual_seed(7)
        layer = torch.nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, 2)
        report = einforge.convert_(model, "monarch", measure=False)
        self.assertEqual(
            [row.name for row in report if row.skipped],
            ["layers.0.self_attn.out_proj", "layers.1.self_attn.out_proj"])
        x = torch.randn(3, 5, 16)
        wanted = model(x)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x), wanted)

    def test_keeps_what_has_no_projection(self):
        for value, device in ((float("nan"), "cpu"), (1.0, "meta")):
            layer = torch.nn.Linear(16, 16, device=device)
            torch.nn.init.constant_(layer.weight, value)
            model = torch.nn.Sequential(layer)
            report = einforge.convert_(model, "monarch", measure=False)
            self.assertRegex(report[0].skipped, "not finite|no values")
            self.assertIs(model[0], layer)
        with self.assertRaisesRegex(ValueError, "load_matrix"):
            einforge.convert_(torch.nn.Linear(16, 16), "monarch")

    def test_keeps_layers_whose_weight_is_not_a_parameter(self):
        utils, linear = torch.nn.utils, torch.nn.Linear
        replaced = linear(16, 16)
        replaced.forward = lambda x: x
        for layer, why in (
                (utils.parametrizations.weight_norm(linear(16, 16)),
                 "parametrized"),
                (utils.parametrizations.orthogonal(linear(16, 16)),
                 "parametrized"),
                (utils.weight_norm(linear(16, 16)), "hook"),
                (utils.spectral_norm(linear(16, 16)), "hook"),
                (prune.l1_unstructured(linear(16, 16), "weight", 0.5), "hook"),
                (type("Own", (linear,), {})(16, 16), "subclass.*Own"),
                (replaced, "replaced its forward")):
            x = torch.randn(64, 16)
            model = torch.nn.Sequential(layer, linear(16, 16))
            report = einforge.convert_(
                model, "monarch", measure=False,
                calibration=lambda model: model(x))
            self.assertRegex(report[0].skipped, why)
            self.assertIs(model[0], layer)
            self.assertEqual(report[1].skipped, "")

    def test_keeps_hooks_and_their_handles(self):
        model = torch.nn.Sequential(torch.nn.Linear(16, 16))
        calls = []
        handles = [
            model[0].register_forward_hook(lambda *_: calls.append("after")),
            model[0].register_forward_pre_hook(
                lambda *_: calls.append("before"), with_kwargs=True),
            model[0].register_full_backward_hook(
                lambda *_: calls.append("backward"))]
        x = torch.randn(4, 16, requires_grad=True)
        wanted = ["before", "after", "backward"]
        for change in (
                lambda: einforge.convert_(model, "monarch", measure=False),
                lambda: nn.merge_(model)):
            change()
            calls.clear()
            model(x).sum().backward()
            self.assertEqual(calls, wanted)
        for handle in handles:
            handle.remove()
        calls.clear()
        model(x).sum().backward()
        self.assertEqual(calls, [])

    def test_finds_a_shared_layer_by_any_of_its_names(self):
        shared = torch.nn.Linear(16, 16)
        model = torch.nn.ModuleDict({"a": torch.nn.Sequential(shared),
                                     "b": torch.nn.Sequential(shared)})
        report = einforge.convert_(
            model, {"b.*": "monarch", "a.*": "btt:0.25"}, measure=False)
        self.assertEqual([row.name for row in report], ["a.0"])
        self.assertIs(model["a"][0], model["b"][0])
        report = einforge.convert_(
            nn.merge_(model), {"b.*": "monarch"}, measure=False)
        self.assertEqual(
            [(row.name, row.structure) for row in report], [("b.0", "monarch")])

    def test_calibration_sees_inputs_by_name_and_torchs_fused_layers(self):
        class Named(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(16, 16)

            def forward(self, x):
                return self.layer(input=x)

        x = torch.randn(200, 16) @ torch.randn(16, 16)
        for model in (Named(), torch.nn.TransformerEncoderLayer(
                16, 2, 32, dropout=0.0, batch_first=True)):
            plain = copy.deepcopy(model)
            at_rest = einforge.convert_(plain, "monarch", measure=False)
            found = einforge.convert_(
                model, "monarch", measure=False,
                calibration=lambda model: model(x.reshape(10, 20, 16)))
            for row, other in zip(found, at_rest):
                if not row.skipped:
                    self.assertNotEqual(
                        row.relative_error, other.relative_error)

    def test_arguments_that_cannot_be_are_value_errors_of_one_line(self):
        def model():
            return torch.nn.Sequential(torch.nn.Linear(16, 16))

        for arguments, words in (
                (("model", "monarch"), "Module; got a str"),
                ((model(), ["monarch"]), "dict of names"),
                ((model(), None), "dict of names"),
                ((model(), {"*": 3}), "name of a structure"),
                ((model(), {"*": "monarh"}), "did you mean 'monarch'"),
                ((model(), {"*": "btt:2"}), "from 0 to 1"),
                ((model(), {"nothing": "monarch"}), "match linear layers"),
                ((torch.nn.ReLU(), "monarch"), "match linear layers")):
            with self.assertRaisesRegex(ValueError, words) as caught:
                einforge.convert_(*arguments)
            self.assertNotIn("\n", str(caught.exception))
        for options, words in (
                ({"init": "zero"}, "'project' or 'random'"),
                ({"calibration": torch.ones(3)}, "function.*got a Tensor"),
                ({"calibration": lambda model: None}, "none of the layers"),
                ({"tokens": 0}, "tokens of at least 1"),
                ({"iterations": -1}, "iterations of at least 0")):
            unchanged = model()
            with self.assertRaisesRegex(ValueError, words):
                einforge.convert_(unchanged, "monarch", **options)
            self.assertIs(type(unchanged[0]), torch.nn.Linear)

    def test_skips_what_is_slower(self):
        for times, kept in (((1.0, 2.0), True), ((2.0, 1.0), False)):
            model = torch.nn.Sequential(torch.nn.Linear(64, 64))
            with mock.patch.object(
                    convert, "milliseconds", side_effect=list(times)):
                report = einforge.convert_(
                    model, "monarch", skip_if_slower=True)
            self.assertEqual(report[0].skipped, "slower" if kept else "")
            self.assertEqual(report[0].ms, times)
            self.assertEqual(type(model[0]) is torch.nn.Linear, kept)


if __name__ == "__main__":
    unittest.main()
