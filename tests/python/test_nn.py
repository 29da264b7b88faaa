"""Modules, projection and conversion, against independent references.

Run by ctest; by hand: EINFORGE_LIBRARY=.../libeinforge_python.so python test_nn.py
"""

import copy
import os
import pathlib
import pickle
import random
import sys
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import torch  # noqa: E402

import einforge  # noqa: E402
from einforge import nn, projection  # noqa: E402
from einforge.projection import matrix, project  # noqa: E402

STRUCTURES = ["dense", "monarch", "btt:0.25", "low_rank:0.5", "kronecker",
              "tensor_train:0.25", "theta:0.25,0.25,0.5,0.25,0.25,0.5,0.1"]


def random_sizes(draw):
    while True:
        sizes = einforge.Sizes(*(draw.randint(1, 4) for _ in range(7)))
        if 1 < sizes.d_in * sizes.d_out < 1200:
            return sizes


def tail(weight, s):
    """The optimum's error: all singular values of each slice past rho."""
    squared = 0.0
    w = weight.reshape(s.delta, s.epsilon, s.phi, s.alpha, s.beta, s.gamma)
    for f in range(s.phi):
        for g in range(s.gamma):
            rows = [
                w[:, e, f, :, b, g].T.reshape(-1)
                for b in range(s.beta) for e in range(s.epsilon)
            ]
            values = torch.linalg.svdvals(torch.stack(rows))
            squared += float(values[s.rho:].square().sum())
    return squared ** 0.5


class Projection(unittest.TestCase):
    def test_is_the_tail_of_the_singular_values(self):
        draw = random.Random(0)
        torch.manual_seed(0)
        for _ in range(200):
            s = random_sizes(draw)
            w = torch.randn(s.d_out, s.d_in, dtype=torch.float64)
            found = project(w, s)
            error = float((w - matrix(found.core_a, found.core_b)).norm())
            self.assertLess(abs(error - tail(w, s)), 1e-9 * float(w.norm()), s)
            self.assertAlmostEqual(
                found.errors[-1], error / float(w.norm()), places=12)

    def test_descent_from_around_it_finds_nothing_better(self):
        """Of as many matrices as EINFORGE_TEST_MATRICES says."""
        draw = random.Random(1)
        torch.manual_seed(1)
        for _ in range(int(os.environ.get("EINFORGE_TEST_MATRICES", "10"))):
            s = random_sizes(draw)
            w = torch.randn(s.d_out, s.d_in, dtype=torch.float64)
            found = project(w, s)
            # Beside the optimum, where the gradient is not 0.
            cores = [(core + 0.1 * torch.randn_like(core)).requires_grad_()
                     for core in (found.core_a, found.core_b)]
            optimizer = torch.optim.LBFGS(
                cores, max_iter=200, line_search_fn="strong_wolfe")

            def loss():
                optimizer.zero_grad()
                value = (w - matrix(*cores)).square().sum()
                value.backward()
                return value

            start = float(optimizer.step(loss).detach()) ** 0.5
            best = float(loss().detach()) ** 0.5
            self.assertLess(best, start)
            self.assertGreater(best, tail(w, s) - 1e-9 * float(w.norm()))

    def test_recovers_a_matrix_of_the_structure(self):
        draw = random.Random(2)
        torch.manual_seed(2)
        for _ in range(50):
            s = random_sizes(draw)
            a = torch.randn(s.core_a, dtype=torch.float64)
            b = torch.randn(s.core_b, dtype=torch.float64)
            self.assertLess(project(matrix(a, b), s).errors[-1], 1e-7, s)

    def test_weighted_never_rises_and_beats_the_plain_one(self):
        draw = random.Random(3)
        torch.manual_seed(3)
        for _ in range(30):
            s = random_sizes(draw)
            w = torch.randn(s.d_out, s.d_in, dtype=torch.float64)
            # Correlated inputs, sometimes fewer than features.
            rows = draw.choice([s.d_in // 2 + 1, 4 * s.d_in])
            x = torch.randn(rows, s.d_in, dtype=torch.float64)
            x = x @ torch.randn(s.d_in, s.d_in, dtype=torch.float64)

            def error(found):
                gap = w - matrix(found.core_a, found.core_b)
                return float((x @ gap.T).norm() / (x @ w.T).norm())

            found = project(w, s, x)
            for before, after in zip(found.errors, found.errors[1:]):
                self.assertLessEqual(after, before)
            self.assertAlmostEqual(error(found), found.errors[-1], places=6)
            self.assertLessEqual(error(found), error(project(w, s)) + 1e-9)

    def test_steps_come_as_near_as_a_factored_gram_matrix(self):
        """What large layers take, on small ones."""
        draw = random.Random(4)
        torch.manual_seed(4)
        for _ in range(20):
            s = random_sizes(draw)
            w = torch.randn(s.d_out, s.d_in, dtype=torch.float64)
            x = torch.randn(4 * s.d_in, s.d_in, dtype=torch.float64)
            x = x @ torch.randn(s.d_in, s.d_in, dtype=torch.float64)
            factored = project(w, s, x, iterations=1).errors
            with mock.patch.object(projection, "_DIRECT", 0):
                stepped = project(w, s, x, iterations=1).errors
            self.assertEqual(stepped, sorted(stepped, reverse=True))
            self.assertLess(stepped[-1] - factored[-1], 1e-3 * factored[0], s)

    def test_refuses_other_shapes(self):
        with self.assertRaisesRegex(ValueError, r"\(4, 6\).*\(6, 4\)"):
            project(torch.randn(6, 4), einforge.Sizes(2, 1, 3, 1, 2, 2))
        with self.assertRaisesRegex(ValueError, r"\(n, 6\)"):
            project(torch.randn(4, 6), einforge.Sizes(2, 1, 3, 1, 2, 2),
                    torch.randn(3, 5))


class AnyLayer(unittest.TestCase):
    """What holds for layers of all kinds."""

    @staticmethod
    def layers(dtype=None):
        for structure in STRUCTURES:
            yield nn.Linear(48, 96, structure, dtype=dtype)
        for structure in ("btt_moe:E=3,k=2", "dense_moe:E=3,k=1",
                          "low_rank_moe:E=3,k=2"):
            yield nn.MoeLinear(48, 96, structure, dtype=dtype)
        yield nn.FfnMoe(48, 64, "ffn_moe:E=3,k=2", dtype=dtype)

    def test_any_number_of_tokens_in_any_shape(self):
        torch.manual_seed(20)
        for layer in self.layers():
            whole = torch.randn(2, 3, 48)
            y = layer(whole)
            for x, wanted in (
                    (whole, y), (whole[0, 0], y[0, 0]), (whole[None], y[None]),
                    (whole[:, :0], y[:, :0]), (whole[:0], y[:0]),
                    (whole.transpose(0, 1), y.transpose(0, 1))):
                x = x.detach().requires_grad_()
                got = layer(x)
                torch.testing.assert_close(got, wanted)
                got.sum().backward()
                self.assertEqual(x.grad.shape, x.shape)
                with torch.no_grad():
                    self.assertEqual(layer(x).shape, wanted.shape)

    def test_half_precision_on_the_cpu(self):
        torch.manual_seed(21)
        for dtype, unit in ((torch.bfloat16, 2 ** -8), (torch.float16, 2 ** -11)):
            for layer in self.layers(dtype):
                x = torch.randn(40, 48, dtype=dtype)
                wide = copy.deepcopy(layer).double()
                wanted = wide(x.double())
                got = layer(x)
                self.assertEqual(got.dtype, dtype)
                # Of the scale of what is summed.
                self.assertLess(
                    float((got - wanted).abs().max()),
                    8 * unit * float(wanted.abs().max()))

    def test_another_dtype_is_an_error_that_names_both(self):
        for layer in self.layers():
            for dtype in (torch.float64, torch.bfloat16, torch.int64):
                with self.assertRaisesRegex(
                        RuntimeError, "(?i)dtype|float") as caught:
                    layer(torch.ones(2, 48, dtype=dtype))
                self.assertNotIn("standard error", str(caught.exception))


class Linear(unittest.TestCase):
    def test_agrees_with_its_merged_matrix(self):
        torch.manual_seed(4)
        for structure in STRUCTURES:
            layer = nn.Linear(48, 96, structure, dtype=torch.float64)
            torch.nn.init.normal_(layer.bias)
            x = torch.randn(3, 5, 48, dtype=torch.float64)
            want = x @ layer.merged().T + layer.bias
            torch.testing.assert_close(layer(x), want)

    def test_starts_as_the_program_does(self):
        # Hand-computed: order BA, sizes (1,32,32 -> 32,1,32; 1).
        layer = nn.Linear(1024, 1024, "theta:0,0.5,0.5,0.5,0,0.5,0")
        self.assertTrue(layer.structure.b_first)
        for core in layer.structure.cores:
            self.assertAlmostEqual(core.init_std, 32 ** -0.5, places=6)
        torch.manual_seed(5)
        layer = nn.Linear(1024, 1024, "monarch")
        self.assertAlmostEqual(
            float(layer.core_a.detach().std()), 32 ** -0.5, delta=2e-3)

    def test_padding_is_as_the_layer_inside(self):
        layer = nn.Linear(1009, 1009, "monarch:pad", dtype=torch.float64)
        self.assertTrue(layer.structure.padded)
        x = torch.randn(7, 1009, dtype=torch.float64)
        torch.testing.assert_close(
            layer(x), x @ layer.merged().T + layer.bias)

    def test_zero_starts_at_zero_and_learns(self):
        for structure in ["dense", "monarch", "theta:0,0.5,0.5,0.5,0,0.5,0"]:
            layer = nn.Linear(64, 64, structure, zero=True)
            x = torch.randn(8, 64)
            self.assertEqual(float(layer(x).detach().abs().max()), 0)
            layer(x).sum().backward()
            self.assertGreater(
                sum(float(p.grad.abs().sum()) for n, p in
                    layer.named_parameters() if n != "bias"), 0)

    def test_bad_input_is_a_value_error_of_one_line(self):
        for arguments, words in [
                ((64, 64, "monrach"), "monarch"), ((-1, 64, "dense"), "d_in"),
                ((64, 0, "dense"), "d_out"), ((1009, 1009, "monarch"), "1009"),
                ((64.5, 64), "whole.*64.5"), (("64", 64), "whole.*'64'"),
                ((64, None), "whole.*None"), ((64, 64, ["monarch"]), "name"),
                ((64, 64, "btt_moe:E=4,k=2"), "MoeLinear")]:
            with self.assertRaisesRegex(ValueError, words) as caught:
                nn.Linear(*arguments)
            self.assertNotIn("\n", str(caught.exception))

    def test_survives_copies_files_meta_and_casts(self):
        torch.manual_seed(6)
        layer = nn.Linear(64, 128, "btt:0.25")
        x = torch.randn(4, 64)
        y = layer(x)
        other = nn.Linear(64, 128, "btt:0.25")
        other.load_state_dict(layer.state_dict())
        for twin in (other, copy.deepcopy(layer),
                     pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(twin(x), y)
        with torch.device("meta"):
            blank = nn.Linear(64, 128, "btt:0.25")
        self.assertTrue(blank.core_a.is_meta)
        blank.to_empty(device="cpu").reset_parameters()
        self.assertTrue(torch.isfinite(blank(x)).all())
        self.assertEqual(layer.to(torch.bfloat16)(x.bfloat16()).dtype,
                         torch.bfloat16)

    def test_loads_files_of_older_names_and_shapes(self):
        layer = nn.Linear(64, 64, "monarch")
        state = layer.state_dict()
        state["gamma_a"] = torch.tensor(2.0)
        state["gamma_b"] = torch.tensor(3.0)
        del state["gain_a"], state["gain_b"]
        layer.load_state_dict(state)
        self.assertEqual(layer.gain_a.tolist(), [2.0])
        self.assertEqual(layer.gain_b.tolist(), [3.0])

    def test_compiles_to_one_graph_for_all_token_counts(self):
        layer = nn.Linear(64, 64, "monarch")
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager",
                                 dynamic=True)
        for count in (3, 5, 9, 17):
            x = torch.randn(count, 64)
            torch.testing.assert_close(compiled(x), layer(x))

    def test_load_matrix_is_not_rescaled_by_the_cap(self):
        torch.manual_seed(7)
        for structure in ("monarch", "btt:0.25", "low_rank:0.5", "dense"):
            for scale in (1e-3, 1.0, 1e3):
                w = scale * torch.randn(96, 64)
                layer = nn.Linear(64, 96, structure)
                found = layer.load_matrix(w)
                gap = float((w - layer.merged()).norm() / w.norm())
                self.assertAlmostEqual(gap, found.errors[-1], delta=1e-5)


class Mixture(unittest.TestCase):
    def test_is_the_sum_of_the_chosen_experts(self):
        torch.manual_seed(8)
        layer = nn.MoeLinear(32, 48, "btt_moe:E=5,k=2", dtype=torch.float64)
        layer.router.to(torch.float64)
        torch.nn.init.normal_(layer.router.weight)
        torch.nn.init.normal_(layer.bias)
        x = torch.randn(11, 32, dtype=torch.float64)
        a, b = layer.cores()
        logits = x @ layer.router.weight.T
        best = logits.topk(2).indices
        want = torch.zeros(11, 48, dtype=torch.float64)
        for t in range(11):
            gates = logits[t, best[t]].softmax(-1)
            for gate, e in zip(gates, best[t]):
                want[t] += gate * (x[t] @ matrix(a[e], b[e]).T)
        torch.testing.assert_close(layer(x), want + layer.bias)

    def test_loads_routers_by_their_old_name(self):
        layer = nn.MoeLinear(16, 16, "btt_moe:E=4,k=2")
        torch.nn.init.normal_(layer.router.weight)
        state = layer.state_dict(prefix="0.")
        state["0.router"] = state.pop("0.router.weight")
        other = torch.nn.Sequential(nn.MoeLinear(16, 16, "btt_moe:E=4,k=2"))
        other.load_state_dict(state)
        self.assertTrue(
            torch.equal(other[0].router.weight, layer.router.weight))

    def test_losses_and_health_are_of_the_last_pass(self):
        torch.manual_seed(9)
        model = torch.nn.Sequential(
            nn.MoeLinear(32, 32, "btt_moe:E=4,k=2"), torch.nn.ReLU(),
            nn.MoeLinear(32, 32, "low_rank_moe:E=4,k=2"))
        self.assertEqual(float(nn.aux_loss(model)), 0)
        for _, router in nn.routers(model):
            torch.nn.init.normal_(router.weight)
        x = torch.randn(64, 32)
        model(x)
        # The definition: E sum p f, plus 0.1 of the mean squared logsumexp.
        losses = []
        h = x
        for mixture in (model[0], model[2]):
            logits = h @ mixture.router.weight.T
            p = logits.softmax(-1).mean(0)
            f = torch.bincount(
                logits.topk(2).indices.flatten(), minlength=4) / 128
            losses.append(0.01 * 4 * (p * f).sum()
                          + 0.001 * logits.logsumexp(-1).square().mean())
            h = mixture(h).relu()
        torch.testing.assert_close(nn.aux_loss(model), sum(losses) / 2)
        for health in nn.router_health(model).values():
            self.assertEqual(sum(health["tokens"]), 128)
        nn.aux_loss(model).backward()
        self.assertGreater(float(model[0].router.weight.grad.abs().sum()), 0)

    def test_a_router_of_one_learns(self):
        torch.manual_seed(10)
        layer = nn.MoeLinear(32, 32, "btt_moe:E=4,k=1")
        torch.nn.init.normal_(layer.router.weight)
        layer(torch.randn(64, 32)).square().sum().backward()
        self.assertGreater(float(layer.router.weight.grad.abs().sum()), 0)


    def test_dense_experts_and_networks_of_them(self):
        torch.manual_seed(11)
        x = torch.randn(2, 6, 16, dtype=torch.float64)
        rows = x.reshape(-1, 16)
        for softmax_first in (None, True):
            layer = nn.MoeLinear(
                16, 24, "dense_moe:E=4,k=2", softmax_first=softmax_first,
                dtype=torch.float64)
            network = nn.FfnMoe(
                16, 32, "ffn_moe:E=4,k=2", softmax_first=softmax_first,
                dtype=torch.float64)
            for mixture, expert in (
                    (layer, lambda e: rows @ layer.weight[e].T),
                    (network, lambda e: torch.nn.functional.gelu(
                        rows @ network.in_weight[e].T, approximate="tanh")
                        @ network.out_weight[e].T)):
                torch.nn.init.normal_(mixture.bias)
                torch.nn.init.normal_(mixture.router.to(torch.float64).weight)
                logits = rows @ mixture.router.weight.T
                best = logits.topk(2).indices
                gates = (logits.gather(1, best).softmax(1)
                         if softmax_first is None
                         else logits.softmax(1).gather(1, best))
                want = mixture.bias + sum(
                    ((best == e) * gates).sum(1, keepdim=True) * expert(e)
                    for e in range(4))
                got = mixture(x)
                torch.testing.assert_close(got, want.reshape(got.shape))
                inputs = list(mixture.parameters())
                weight = torch.randn_like(got)
                torch.testing.assert_close(
                    torch.autograd.grad((got * weight).sum(), inputs),
                    torch.autograd.grad(
                        (want.reshape(got.shape) * weight).sum(), inputs))

    def test_grouped_matmuls_agree_with_the_operator(self):
        # What runs on CUDA in bfloat16.
        torch.manual_seed(12)
        rows = torch.randn(37, 16, dtype=torch.bfloat16)
        weight = torch.randn(5, 24, 16, dtype=torch.bfloat16)
        experts = torch.randint(5, (37,), dtype=torch.int32)
        got = nn._grouped(rows, weight, experts)
        want = torch.einsum(
            "nd,nod->no", rows.float(), weight[experts.long()].float())
        torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=5e-2)

    def test_initial_values_and_rates_of_networks(self):
        layer = nn.FfnMoe(256, 1024, "ffn_moe:E=8,k=2")
        # sqrt(min(d_in, d_out)) / d_in of each matrix; N(0, 1 / width).
        for weight, std in ((layer.in_weight, 256 ** 0.5 / 256),
                            (layer.out_weight, 256 ** 0.5 / 1024),
                            (layer.router.weight, 256 ** -0.5)):
            self.assertAlmostEqual(
                float(weight.detach().std()), std, delta=0.05 * std)
        groups = nn.param_groups(layer, lr=1.0, weight_decay=0.1)
        of = {id(p): (g["lr"], g["weight_decay"])
              for g in groups for p in g["params"]}
        self.assertEqual(of[id(layer.in_weight)], (768 / 256, 0.1))
        self.assertEqual(of[id(layer.out_weight)], (768 / 1024, 0.1))
        self.assertEqual(of[id(layer.router.weight)], (768 / 256, 0.1))
        self.assertEqual(of[id(layer.bias)], (1.0, 0.0))

    def test_a_bias_moves_against_the_load(self):
        torch.manual_seed(13)
        for structure in ("btt_moe:E=4,k=1", "dense_moe:E=4,k=1"):
            layer = nn.MoeLinear(16, 16, structure, bias_rate=0.5)
            with torch.no_grad():
                layer.router.weight[2] = 1.0
            x = torch.rand(64, 16)  # all above 0: expert 2 takes them all
            layer(x)
            self.assertEqual(
                nn.router_health(layer)[""]["tokens"], [0, 0, 64, 0])
            nn.update_biases(layer)
            self.assertEqual(layer.router.bias.tolist(), [0.5, 0.5, -0.5, 0.5])
            self.assertEqual(layer.router.load.sum().item(), 0)
            for _ in range(40):
                layer(x)
                nn.update_biases(layer)
            self.assertLess(
                nn.router_health(layer)[""]["largest_share"], 1.0)

    def test_jitter_is_of_training_alone(self):
        torch.manual_seed(14)
        layer = nn.MoeLinear(16, 16, "btt_moe:E=4,k=2", jitter=0.5)
        torch.nn.init.normal_(layer.router.weight)
        x = torch.randn(8, 16)
        self.assertFalse(torch.equal(layer(x), layer(x)))
        layer.eval()
        self.assertTrue(torch.equal(layer(x), layer(x)))


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 64)
        self.norm = torch.nn.LayerNorm(64)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
        self.head = torch.nn.Linear(64, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        h = self.embedding(tokens)
        return self.head(h + self.mlp(self.norm(h)))


class Groups(unittest.TestCase):
    def test_rates_and_decay_by_hand(self):
        model = Tiny()
        model.mlp[0] = nn.Linear(64, 256, "monarch")
        groups = nn.param_groups(model, lr=1.0, weight_decay=0.1)
        of = {id(p): (g["lr"], g["weight_decay"])
              for g in groups for p in g["params"]}
        self.assertEqual(len(of), len(list(model.parameters())))
        s = model.mlp[0].structure.sizes
        # base_width / d_in of the core / 2 cores
        self.assertEqual(of[id(model.mlp[0].core_a)], (768 / s.alpha / 2, 0.1))
        self.assertEqual(
            of[id(model.mlp[0].core_b)], (768 / (s.gamma * s.rho) / 2, 0.1))
        self.assertEqual(of[id(model.mlp[2].weight)], (768 / 256, 0.1))
        self.assertEqual(of[id(model.mlp[0].gain_a)], (1.0, 0.0))
        self.assertEqual(of[id(model.mlp[2].bias)], (1.0, 0.0))
        torch.optim.AdamW(groups)


class Convert(unittest.TestCase):
    def test_exactly_representable_layers_keep_their_outputs(self):
        torch.manual_seed(11)
        model = Tiny().eval()
        with torch.no_grad():
            for i in (0, 2):
                inner = model.mlp[i]
                inner.weight.copy_(nn.Linear(
                    inner.in_features, inner.out_features, "monarch").merged())
        tokens = torch.randint(10, (3, 7))
        want = model(tokens)
        report = einforge.convert_(
            model, {"mlp.*": "monarch", "head": "monarch"}, tokens=16)
        torch.testing.assert_close(model(tokens), want, rtol=1e-4, atol=1e-5)
        self.assertEqual([row.name for row in report],
                         ["mlp.0", "mlp.2", "head"])
        self.assertIn("shared", report[2].skipped)
        self.assertIsInstance(model.head, torch.nn.Linear)
        for row in report[:2]:
            self.assertLess(row.relative_error, 1e-6)
            self.assertLess(row.parameters[1], row.parameters[0])
        self.assertIn("mlp.0", str(report))
        merged = nn.merge_(copy.deepcopy(model))
        self.assertIsInstance(merged.mlp[0], torch.nn.Linear)
        torch.testing.assert_close(merged(tokens), want, rtol=1e-4, atol=1e-5)

    def test_cached_caps_once_and_then_as_before(self):
        torch.manual_seed(14)
        model = torch.nn.Sequential(
            nn.Linear(32, 64, "btt:0.25"), nn.MoeLinear(64, 32, "btt_moe:E=4,k=2"),
            nn.Linear(32, 32, "dense"),
            einforge.EinsumLinear(einforge.Sizes(alpha=4, gamma=8, epsilon=4, phi=8)))
        x = torch.randn(5, 32)
        want = model(x)
        with torch.no_grad():
            with nn.cached(model), nn.cached(model[0]):
                self.assertTrue(torch.equal(model(x), want))
                self.assertIs(model[0].cores()[0], model[0].cores()[0])
                model[0].core_a.mul_(0.1)
                self.assertTrue(torch.equal(model(x), want))
            self.assertFalse(torch.equal(model(x), want))
        self.assertNotIn("cores", vars(model[0]))
        model(x).sum().backward()
        self.assertIsNotNone(model[0].core_a.grad)

    def test_calibration_lowers_the_error_of_the_outputs(self):
        torch.manual_seed(12)
        tokens = torch.randint(10, (16, 8))
        gaps = {}
        for calibrated in (False, True):
            torch.manual_seed(13)
            model = Tiny().eval()
            want = model(tokens)
            einforge.convert_(
                model, {"mlp.0": "btt:0.25"}, measure=False,
                calibration=(lambda m: m(tokens)) if calibrated else None)
            gaps[calibrated] = float((model(tokens) - want).detach().norm())
        self.assertLess(gaps[True], gaps[False])

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "'lm.*'"):
            einforge.convert_(Tiny(), {"lm.*": "monarch"})
        with self.assertRaisesRegex(ValueError, "projct"):
            einforge.convert_(Tiny(), "monarch", init="projct")
        model = Tiny()
        model.mlp[0] = torch.nn.Linear(64, 251)
        report = einforge.convert_(model, {"mlp.0": "monarch"}, measure=False)
        self.assertIn("251", report[0].skipped)


if __name__ == "__main__":
    unittest.main()
