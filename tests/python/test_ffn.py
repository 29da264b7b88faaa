"""Feed-forward networks as one operator, against float64 and plain layers.

Run by ctest; by hand: EINFORGE_LIBRARY=.../libeinforge_python.so python test_ffn.py
"""

import copy
import io
import math
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import torch  # noqa: E402

import einforge  # noqa: E402
from einforge import nn  # noqa: E402

OP = torch.ops.einforge.ffn.default
Sizes = einforge.Sizes
NETWORKS = [
    (Sizes(alpha=4, gamma=3, epsilon=8, phi=2),  # the hidden features cut alike
     Sizes(alpha=8, gamma=2, epsilon=4, phi=3)),
    (Sizes(alpha=4, gamma=3, epsilon=6, phi=2, rho=2),
     Sizes(beta=3, gamma=4, delta=5, phi=2)),
    (Sizes(3, 2, 2, 2, 3, 2, 2), Sizes(alpha=12, epsilon=5, rho=2)),
]


def operands(sizes, batch=(5,), dtype=torch.float64, biases=(True, True)):
    """x and, of each layer, both cores and the bias."""
    torch.manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    result = [randn(*batch, sizes[0].d_in)]
    for s, bias in zip(sizes, biases):
        result += [
            randn(s.alpha, s.gamma, s.delta, s.phi, s.rho),
            randn(s.beta, s.gamma, s.epsilon, s.phi, s.rho),
            randn(s.d_out) if bias else None]
    return result


def definition(x, *layers):
    """Einsums and the formula of GELU."""
    def linear(x, a, b, bias):
        y = torch.einsum(
            "tabg,agdfr,bgefr->tdef",
            x.reshape(-1, a.shape[0], b.shape[0], a.shape[1]), a, b)
        y = y.reshape(*x.shape[:-1], a.shape[2] * b.shape[2] * a.shape[3])
        return y if bias is None else y + bias

    h = linear(x, *layers[:3])
    h = 0.5 * h * (1 + torch.tanh(
        math.sqrt(2 / math.pi) * (h + 0.044715 * h ** 3)))
    return linear(h, *layers[3:])


def gradients(way, args):
    """y and the gradients of all operands."""
    y = way(*args)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad(
        (y * weight).sum(), [arg for arg in args if arg is not None])]


def fused(*args):
    return einforge.ffn(*args, fused=True)


class Operator(unittest.TestCase):
    def test_agrees_with_the_definition(self):
        for sizes in NETWORKS:
            for batch in ((), (0,), (1,), (5,), (2, 3)):
                for biases in ((True, True), (True, False), (False, False)):
                    args = operands(sizes, batch, biases=biases)
                    wanted = gradients(definition, args)
                    for way in (einforge.ffn, fused):
                        for got, want in zip(gradients(way, args), wanted):
                            torch.testing.assert_close(got, want)

    def test_gradients_that_are_not_asked_for(self):
        for asked in ((0,), (3,), (4, 6), (2, 5)):
            args = operands(NETWORKS[0])
            for i, arg in enumerate(args):
                arg.requires_grad_(i in asked)
            leaves = [args[i] for i in asked]
            torch.testing.assert_close(
                torch.autograd.grad(fused(*args).square().sum(), leaves),
                torch.autograd.grad(definition(*args).square().sum(), leaves))

    def test_keeps_its_operands_alone(self):
        args = operands(NETWORKS[0])
        for way, is_kept in ((fused, False), (einforge.ffn, True)):
            kept = []

            def pack(tensor):
                kept.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                way(*args)
            hidden = NETWORKS[0][0].d_out
            self.assertEqual(
                any(t.shape == (5, hidden) for t in kept), is_kept)

    def test_opcheck(self):
        for sizes in NETWORKS[:2]:
            for fused in (True, None):
                torch.library.opcheck(OP, (*operands(sizes), fused))
        torch.library.opcheck(OP, (
            *operands(NETWORKS[0], biases=(False, False)), True))

    def test_opcheck_of_backward(self):
        op = torch.ops.einforge.ffn_backward.default
        for mask in ([True] * 7, [False] * 4 + [True] * 3,
                     [True, False, False, True, False, True, False]):
            args = [arg.detach() for arg in operands(NETWORKS[0])]
            grad = torch.randn(5, NETWORKS[0][1].d_out, dtype=torch.float64)
            torch.library.opcheck(op, (grad, *args[:6], mask))

    def test_second_derivatives_and_forward_mode(self):
        args = operands(NETWORKS[0], (2,))
        self.assertTrue(torch.autograd.gradcheck(
            fused, args, check_forward_ad=True))
        self.assertTrue(torch.autograd.gradgradcheck(fused, args))

    def test_transforms(self):
        x, *layers = (arg.detach() for arg in operands(NETWORKS[0], (3, 2)))

        def loss(x, *layers):
            return fused(x, *layers).square().sum()

        def of_definition(x, *layers):
            return definition(x, *layers).square().sum()

        for of in (torch.func.grad, torch.func.hessian):
            torch.testing.assert_close(
                of(loss, 4)(x, *layers), of(of_definition, 4)(x, *layers))
        torch.testing.assert_close(
            torch.func.vmap(fused, (0, *[None] * 6))(x, *layers),
            definition(x, *layers))

    def test_autocast(self):
        args = operands(NETWORKS[0], dtype=torch.float32)
        wanted = gradients(definition, args)
        for way in (einforge.ffn, fused):
            with torch.autocast("cpu", torch.bfloat16):
                got = gradients(way, args)
            self.assertEqual(got[0].dtype, torch.bfloat16)
            for value, want, arg in zip(got, wanted, [None, *args]):
                if arg is not None:
                    self.assertEqual(value.dtype, arg.dtype)
                error = (value.double() - want.double()).norm()
                self.assertLess(float((error / want.norm()).detach()), 0.03)

    def test_one_graph_takes_all_token_counts(self):
        _, *layers = operands(NETWORKS[0])
        for way in (einforge.ffn, fused):
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            compiled = torch.compile(
                lambda x: way(x, *layers), backend="aot_eager", fullgraph=True,
                dynamic=True)
            for tokens in (5, 9, 17):
                x = torch.randn(
                    tokens, 12, dtype=torch.float64, requires_grad=True)
                wanted = gradients(way, [x, *layers])
                got = gradients(
                    lambda x, *_: compiled(x), [x, *layers])
                for value, want in zip(got, wanted):
                    torch.testing.assert_close(value, want)
            self.assertEqual(
                torch._dynamo.utils.counters["stats"]["unique_graphs"], 1)

    def test_errors(self):
        x, *layers = operands(NETWORKS[0])
        for way in (einforge.ffn, fused):
            with self.assertRaisesRegex(RuntimeError, r"size \(\.\.\., 12\)"):
                way(x[:, 1:], *layers)
            with self.assertRaisesRegex(RuntimeError, r"bias of size \(12\)"):
                way(x, *layers[:5], layers[5][1:])
            with self.assertRaisesRegex(RuntimeError, "x's dtype"):
                way(x.float(), *layers)


def plain(width=64, hidden=256, structure="monarch", gelu="tanh"):
    return torch.nn.Sequential(
        nn.Linear(width, hidden, structure), torch.nn.GELU(gelu),
        nn.Linear(hidden, width, structure))


def of_module(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in model.parameters())]
    model.zero_grad()
    return found


class Module(unittest.TestCase):
    def check_same(self, one, other, x):
        for got, want in zip(of_module(one, x), of_module(other, x)):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

    def test_is_a_sequential_of_its_layers(self):
        torch.manual_seed(0)
        layers, x = plain(), torch.randn(3, 5, 64)
        for is_fused in (None, False, True):
            network = nn.Ffn(64, 256, "monarch", fused=is_fused)
            network.load_state_dict(layers.state_dict())
            self.check_same(network, layers, x)
            self.assertEqual(
                [g["lr"] for g in nn.param_groups(network, 1.0)],
                [g["lr"] for g in nn.param_groups(layers, 1.0)])
            self.assertEqual(
                [row[:6] for row in einforge.describe(network)],
                [row[:6] for row in einforge.describe(layers)])
        self.assertIs(type(network[:2]), torch.nn.Sequential)
        torch.testing.assert_close(network[2](network[:2](x)), network(x))

    def test_is_one_operator(self):
        x = torch.randn(4, 64)
        for network, is_one in (
                (nn.Ffn(64, 256), True),
                (nn.Ffn(64, 256, "dense"), False),
                (nn.Ffn(64, 251, "btt:0.25,pad"), False)):
            self.assertEqual(network[0].structure.padded, not is_one
                             and not network[0].structure.dense)
            targets = [node.target for node in
                       torch.export.export(network, (x,)).graph.nodes]
            self.assertEqual(OP in targets, is_one)
            self.assertEqual(torch.ops.aten.gelu.default in targets, not is_one)

    def test_starts_at_zero_and_learns(self):
        for is_fused in (False, True):
            torch.manual_seed(0)
            network = nn.Ffn(64, 256, "btt:0.25", zero=True, fused=is_fused)
            x, target = torch.randn(32, 64), torch.randn(32, 64)
            self.assertEqual(float(network(x).detach().abs().max()), 0)
            optimizer = torch.optim.AdamW(nn.param_groups(network, 1e-2))
            losses = []
            for _ in range(20):
                loss = (network(x) - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            self.assertLess(losses[-1], 0.7 * losses[0])

    def test_mixtures(self):
        network = nn.Ffn(64, 256, "btt_moe:E=4,k=2", init_std=1.0)
        x = torch.randn(7, 64)
        torch.testing.assert_close(
            network(x), network[2](network[1](network[0](x))))
        self.assertGreater(float(nn.aux_loss(network).detach()), 0)
        with self.assertRaisesRegex(ValueError, "FfnMoe"):
            nn.Ffn(64, 256, "ffn_moe:E=4,k=2")

    def test_calls_what_has_hooks_and_what_is_merged(self):
        torch.manual_seed(0)
        network, x = nn.Ffn(64, 256, fused=True), torch.randn(3, 64)
        wanted = network(x)
        shapes = []
        for layer in network:
            layer.register_forward_hook(
                lambda _, given, y: shapes.append(tuple(y.shape)))
        torch.testing.assert_close(network(x), wanted)
        self.assertEqual(shapes, [(3, 256), (3, 256), (3, 64)])
        merged = nn.merge_(copy.deepcopy(network))
        self.assertIs(type(merged[2]), torch.nn.Linear)
        torch.testing.assert_close(merged(x), wanted, rtol=1e-4, atol=1e-5)

    def test_cached_and_named_layers(self):
        torch.manual_seed(0)
        first, second = plain()[0], plain()[2]
        with torch.no_grad():
            first.core_a.mul_(3)  # above its cap
        x = torch.randn(3, 64)
        wanted = second(torch.nn.functional.gelu(first(x), approximate="tanh"))
        for is_fused in (None, True):
            torch.testing.assert_close(
                nn.ffn(x, first, second, is_fused), wanted)
        with torch.no_grad(), nn.cached(first), nn.cached(second):
            torch.testing.assert_close(nn.ffn(x, first, second, True), wanted)
        dense = torch.nn.Linear(256, 64)
        torch.testing.assert_close(
            nn.ffn(x, first, dense),
            dense(torch.nn.functional.gelu(first(x), approximate="tanh")))


class Fuse(unittest.TestCase):
    def test_makes_networks_of_sequentials(self):
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({
            "tanh": plain(), "exact": plain(gelu="none"),
            "longer": torch.nn.Sequential(*plain(), torch.nn.Dropout(0.0)),
            "relu": torch.nn.Sequential(
                nn.Linear(64, 64), torch.nn.ReLU(), nn.Linear(64, 64))})
        before, x = copy.deepcopy(model), torch.randn(5, 64)
        self.assertIs(nn.fuse_(model), model)
        for name, layers in model.items():
            self.assertEqual(
                type(layers), nn.Ffn if name in ("tanh", "longer")
                else torch.nn.Sequential)
            if type(layers) is nn.Ffn:
                layers.fused = True
            Module().check_same(layers, before[name], x)
        self.assertEqual(model.state_dict().keys(), before.state_dict().keys())
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        torch.testing.assert_close(loaded["longer"](x), model["longer"](x))
        self.assertTrue(copy.deepcopy(model)["tanh"].fused)

    def test_convert_does_it(self):
        torch.manual_seed(0)

        def network(gelu):
            return torch.nn.Sequential(
                torch.nn.Linear(64, 256), torch.nn.GELU(gelu),
                torch.nn.Linear(256, 64))

        model = torch.nn.ModuleDict(
            {"a": network("tanh"), "b": network("none"), "c": network("tanh")})
        x = torch.randn(5, 64)
        einforge.convert_(model, {"[ab].*": "btt:0.25"}, measure=False)
        self.assertEqual(
            [type(part) for part in model.values()],
            [nn.Ffn, torch.nn.Sequential, torch.nn.Sequential])
        part = model["a"]
        torch.testing.assert_close(part(x), part[2](part[1](part[0](x))))
        # Calibration sees the inputs of layers inside, converted or not.
        report = einforge.convert_(
            model["c"], "monarch", calibration=lambda model: model(x),
            measure=False)
        self.assertEqual([row.skipped for row in report], ["", ""])


if __name__ == "__main__":
    unittest.main()
