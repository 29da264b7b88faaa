"""The operators from Python: loading, opcheck, gradcheck, compile, autocast.

Run by ctest; by hand: EINFORGE_LIBRARY=.../libeinforge_python.so python test_ops.py
"""

import os
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import torch  # noqa: E402

import einforge  # noqa: E402

SIZES = [
    einforge.Sizes(3, 2, 2, 2, 3, 2, 2),
    einforge.Sizes(alpha=4, gamma=3, epsilon=5, phi=2, rho=2),  # BTT
    einforge.Sizes(beta=4, gamma=3, delta=5, phi=2, rho=2),  # BTT, order BA
    einforge.Sizes(alpha=6, epsilon=5, rho=2),  # low rank
    einforge.Sizes(alpha=2, beta=3, delta=3, epsilon=2),  # Kronecker
    einforge.Sizes(),
]


def operands(sizes, batch=(4,), dtype=torch.float64, device="cpu"):
    s = sizes
    torch.manual_seed(0)
    shapes = [
        (*batch, s.d_in),
        (s.alpha, s.gamma, s.delta, s.phi, s.rho),
        (s.beta, s.gamma, s.epsilon, s.phi, s.rho),
        (s.d_out,),
    ]
    return [
        torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
        for shape in shapes
    ]


def definition(x, a, b, bias):
    y = torch.einsum(
        "tabg,agdfr,bgefr->tdef",
        x.reshape(-1, a.shape[0], b.shape[0], a.shape[1]), a, b)
    return y.reshape(*x.shape[:-1], bias.numel()) + bias


class Mixture(unittest.TestCase):
    def test_agrees_with_a_loop_over_experts(self):
        count, active, sizes = 5, 2, einforge.Sizes(4, 1, 3, 1, 5, 2, 2)
        torch.manual_seed(1)
        x, a, b, bias = operands(sizes, (2, 7))
        a = torch.randn(count, *a.shape, dtype=x.dtype, requires_grad=True)
        b = torch.randn(count, *b.shape, dtype=x.dtype, requires_grad=True)
        router = torch.randn(
            count, sizes.d_in, dtype=x.dtype, requires_grad=True)
        leaves = (x, router, a, b, bias)
        for softmax_first in (False, True):
            got = einforge.btt_moe_routed(
                x, router, a, b, active, softmax_first, output_bias=bias)
            rows = x.reshape(-1, sizes.d_in)
            logits = rows @ router.t()
            experts = logits.topk(active).indices
            torch.testing.assert_close(got.logits, logits)
            self.assertEqual(got.experts.tolist(), experts.tolist())
            gates = (logits.softmax(1).gather(1, experts) if softmax_first
                     else logits.gather(1, experts).softmax(1))
            torch.testing.assert_close(got.gates, gates)
            y = bias.expand(*rows.shape[:-1], -1)
            for e in range(count):
                gate = ((experts == e) * gates).sum(1, keepdim=True)
                y = y + gate * definition(
                    rows, a[e], b[e], torch.zeros_like(bias))
            torch.testing.assert_close(got.y, y.reshape(got.y.shape))
            weight = torch.randn_like(y)
            torch.testing.assert_close(
                torch.autograd.grad((got.y.reshape(y.shape) * weight).sum(),
                                    leaves),
                torch.autograd.grad((y * weight).sum(), leaves))
            torch.testing.assert_close(
                einforge.btt_moe_linear(x, a, b, got.experts, got.gates) + bias,
                got.y)


class BttMoeRouted(unittest.TestCase):
    SIZES = einforge.Sizes(alpha=4, gamma=3, epsilon=5, phi=2)

    def operands(self, tokens, dtype=torch.float64):
        torch.manual_seed(2)
        x, a, b, bias = operands(self.SIZES, (tokens,), dtype)
        stacks = [torch.randn(5, *core.shape, dtype=dtype, requires_grad=True)
                  for core in (a, b)]
        router = torch.randn(
            5, self.SIZES.d_in, dtype=dtype, requires_grad=True)
        return x, router, *stacks, bias

    def routed(self, x, router, a, b, bias, active=2, softmax_first=None):
        return torch.ops.einforge.btt_moe_routed(
            x, router, a, b, active, softmax_first, None, bias)

    def test_opcheck(self):
        x, router, a, b, bias = self.operands(7)
        offset = torch.arange(5, dtype=torch.float64)
        for rest in ((2,), (2, True), (1,), (2, None, offset, bias)):
            torch.library.opcheck(
                torch.ops.einforge.btt_moe_routed.default,
                (x, router, a, b, *rest))

    def test_opcheck_of_backward(self):
        x, router, a, b, bias = (t.detach() for t in self.operands(7))
        y, logits, experts, gates = self.routed(x, router, a, b, bias)
        op = torch.ops.einforge.btt_moe_routed_backward.default
        for grads in ((y, logits, gates), (y, None, None), (None, logits, None)):
            for mask in ([True] * 5, [False, True, False, True, False]):
                torch.library.opcheck(op, (
                    *grads, x, router, a, b, bias, logits, experts, gates,
                    False, mask))

    def test_gradients_are_those_of_the_formulas(self):
        leaves = self.operands(9)
        x, router, a, b, bias = leaves
        for active, softmax_first in ((2, False), (2, True), (1, None)):
            y, logits, experts, gates = self.routed(
                *leaves, active, softmax_first)
            scores = x @ router.t()
            of_all = active == 1 or softmax_first
            shares = (scores.softmax(1).gather(1, experts.long()) if of_all
                      else scores.gather(1, experts.long()).softmax(1))
            wanted = bias + sum(
                ((experts == e) * shares).sum(1, keepdim=True) * definition(
                    x, a[e], b[e], torch.zeros_like(bias)) for e in range(5))
            torch.testing.assert_close(y, wanted)
            torch.testing.assert_close(gates, shares)
            weights = [torch.randn_like(t) for t in (y, logits, gates)]
            def loss(*outputs):
                return sum((w * t).sum() for w, t in zip(weights, outputs))
            torch.testing.assert_close(
                torch.autograd.grad(loss(y, logits, gates), leaves),
                torch.autograd.grad(loss(wanted, scores, shares), leaves))

    def test_one_active_expert_trains_the_router(self):
        x, router, a, b, _ = self.operands(9)
        mixture = einforge.btt_moe_routed(x, router, a, b, 1)
        gradient, = torch.autograd.grad(mixture.y.square().sum(), router)
        self.assertGreater(gradient.abs().max().item(), 0)
        with self.assertRaisesRegex(RuntimeError, "softmax_first with 1 active"):
            einforge.btt_moe_routed(x, router, a, b, 1, softmax_first=False)

    def test_autocast(self):
        leaves = self.operands(9, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, logits, _, gates = self.routed(*leaves)
        self.assertEqual(
            [y.dtype, logits.dtype, gates.dtype],
            [torch.bfloat16, torch.float32, torch.float32])
        for leaf, grad in zip(
                leaves, torch.autograd.grad(y.float().square().sum(), leaves)):
            self.assertEqual(grad.dtype, leaf.dtype)

    def test_refuses_biases_that_would_be_broadcast(self):
        x, router, a, b, bias = self.operands(3)
        for wrong in (bias[:1], bias[None], bias[0]):
            with self.assertRaisesRegex(
                    RuntimeError, r"expected output_bias of size \(10\)"):
                self.routed(x, router, a, b, wrong)


class DynamicTokens(unittest.TestCase):
    """Operators whose number of tokens varies, compiled and exported."""

    SIZES = einforge.Sizes(alpha=4, gamma=4, epsilon=4, phi=4)

    def layers(self):
        torch.manual_seed(3)
        a = torch.randn(4, 4, 4, 1, 4, 1, requires_grad=True)
        b = torch.randn(4, 1, 4, 4, 4, 1, requires_grad=True)
        router = torch.randn(4, 16, requires_grad=True)
        def given(x):
            count = x.shape[0]
            return einforge.btt_moe_linear(
                x, a, b, torch.zeros(count, 1, dtype=torch.int64),
                torch.ones(count, 1))
        return {
            "einsum_linear": lambda x: einforge.einsum_linear(x, a[0], b[0]),
            "btt_moe_linear": given,
            "btt_moe_routed":
                lambda x: einforge.btt_moe_routed(x, router, a, b, 2).y,
            "rms_cap": lambda x: einforge.rms_cap(x, None, 0.5),
        }

    def test_one_graph_takes_all(self):
        for name, layer in self.layers().items():
            for mark in (False, True):
                with self.subTest(name=name, mark=mark):
                    torch._dynamo.reset()
                    torch._dynamo.utils.counters.clear()
                    compiled = torch.compile(
                        layer, backend="aot_eager", fullgraph=True,
                        dynamic=None if mark else True)
                    for tokens in range(3, 15):
                        x = torch.randn(tokens, 16, requires_grad=True)
                        if mark:
                            torch._dynamo.mark_dynamic(x, 0)
                        y = compiled(x)
                        wanted = layer(x)
                        self.assertTrue(torch.equal(y, wanted))
                        torch.testing.assert_close(
                            torch.autograd.grad(y.square().sum(), x),
                            torch.autograd.grad(wanted.square().sum(), x))
                    counters = torch._dynamo.utils.counters
                    self.assertEqual(counters["stats"]["unique_graphs"], 1)

    def test_exports(self):
        for name, layer in self.layers().items():
            with self.subTest(name=name), torch.no_grad():
                class Layer(torch.nn.Module):
                    def forward(self, x):
                        return layer(x)
                program = torch.export.export(
                    Layer(), (torch.randn(6, 16),),
                    dynamic_shapes=({0: torch.export.Dim("tokens", min=2)},))
                for tokens in (2, 11):
                    x = torch.randn(tokens, 16)
                    self.assertTrue(
                        torch.equal(program.module()(x), layer(x)))


class EinsumLinear(unittest.TestCase):
    def test_agrees_with_the_definition(self):
        for sizes in SIZES:
            for batch in [(), (0,), (3,), (2, 5)]:
                args = operands(sizes, batch)
                actual = einforge.einsum_linear(*args)
                torch.testing.assert_close(
                    actual, definition(*args).reshape(actual.shape))

    def test_opcheck(self):
        op = torch.ops.einforge.einsum_linear.default
        for sizes in SIZES:
            torch.library.opcheck(op, tuple(operands(sizes)))
        torch.library.opcheck(
            op, tuple(operands(SIZES[1], dtype=torch.float32)[:3]))

    def test_opcheck_of_backward(self):
        op = torch.ops.einforge.einsum_linear_backward.default
        for sizes in SIZES:
            x, a, b, bias = [t.detach() for t in operands(sizes)]
            grad = torch.randn(4, sizes.d_out, dtype=torch.float64)
            for mask in [[True] * 4, [False, True, False, True]]:
                torch.library.opcheck(op, (grad, x, a, b, mask))

    def test_gradcheck(self):
        for sizes in SIZES:
            args = operands(sizes)
            self.assertTrue(
                torch.autograd.gradcheck(einforge.einsum_linear, args))
            self.assertTrue(
                torch.autograd.gradgradcheck(einforge.einsum_linear, args))

    def test_compiles_without_a_graph_break(self):
        compiled = torch.compile(
            einforge.einsum_linear, backend="aot_eager", fullgraph=True,
            dynamic=True)
        for batch in [(4,), (9,), (17,)]:
            args = operands(SIZES[1], batch, torch.float32)
            expected = einforge.einsum_linear(*args)
            actual = compiled(*args)
            torch.testing.assert_close(actual, expected)
            weight = torch.randn_like(actual)
            for got, wanted in zip(
                torch.autograd.grad((actual * weight).sum(), args),
                torch.autograd.grad((expected * weight).sum(), args),
            ):
                torch.testing.assert_close(got, wanted)

    def test_autocast(self):
        args = operands(SIZES[1], dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = einforge.einsum_linear(*args)
        self.assertEqual(y.dtype, torch.bfloat16)
        for grad in torch.autograd.grad(y.sum(), args):
            self.assertEqual(grad.dtype, torch.float32)

    def test_errors_are_exceptions(self):
        x, a, b, bias = operands(SIZES[0])
        with self.assertRaisesRegex(RuntimeError, r"expected x of size \(..., 12"):
            einforge.einsum_linear(x[:, 1:], a, b, bias)
        with self.assertRaisesRegex(RuntimeError, "expected cores of x's dtype"):
            einforge.einsum_linear(x.float(), a, b)

    def test_refuses_biases_that_would_be_broadcast(self):
        for sizes in SIZES[:-1]:  # of low rank too
            x, a, b, bias = operands(sizes)
            for wrong in (bias[:1], bias[None], bias[0], bias[1:]):
                with self.assertRaisesRegex(
                        RuntimeError,
                        rf"expected bias of size \({sizes.d_out}\)"):
                    einforge.einsum_linear(x, a, b, wrong)

    def test_cuda_agrees_with_cpu(self):
        if not torch.cuda.is_available():
            if os.environ.get("EINFORGE_REQUIRE_CUDA") == "1":
                self.fail("EINFORGE_REQUIRE_CUDA=1, but there is no CUDA device")
            self.skipTest("no CUDA device")
        for sizes in SIZES:
            args = operands(sizes)
            on_gpu = [t.detach().cuda().requires_grad_() for t in args]
            y = einforge.einsum_linear(*args)
            z = einforge.einsum_linear(*on_gpu)
            torch.testing.assert_close(z.cpu(), y)
            for got, wanted in zip(
                torch.autograd.grad(z.sum(), on_gpu),
                torch.autograd.grad(y.sum(), args),
            ):
                torch.testing.assert_close(got.cpu(), wanted)


class CudaGraph(unittest.TestCase):
    """What a graph replays must be what runs without one."""

    LAYERS = {
        "monarch": dict(alpha=32, gamma=32, epsilon=32, phi=32),
        "rank 4": dict(alpha=32, gamma=32, epsilon=32, phi=32, rho=4),
        "one split wider": dict(alpha=64, gamma=32, epsilon=64, phi=32),
        "quarters": dict(alpha=8, gamma=128, epsilon=128, phi=8),
        "kronecker": dict(alpha=32, beta=32, delta=32, epsilon=32),
        "tensor train": dict(alpha=16, beta=64, delta=16, epsilon=64, rho=2),
        "low rank": dict(alpha=1024, epsilon=1024, rho=64),
        "generic": dict(
            alpha=32, beta=4, gamma=8, delta=4, epsilon=32, phi=8, rho=2),
    }

    def setUp(self):
        if not torch.cuda.is_available():
            if os.environ.get("EINFORGE_REQUIRE_CUDA") == "1":
                self.fail("EINFORGE_REQUIRE_CUDA=1, but there is no CUDA device")
            self.skipTest("no CUDA device")

    @staticmethod
    def random(sizes, tokens):
        x, a, b, bias = [
            t.detach().requires_grad_()
            for t in operands(sizes, (tokens,), torch.bfloat16, "cuda")
        ]
        return [x, a, b, bias, torch.randn(
            tokens, sizes.d_out, dtype=torch.bfloat16, device="cuda")]

    @staticmethod
    def step(x, a, b, bias, grad):
        y = einforge.einsum_linear(x, a, b, bias)
        return [y.detach(), *torch.autograd.grad(y, [x, a, b, bias], grad)]

    def check(self, name, tokens, warm):
        sizes = einforge.Sizes(**self.LAYERS[name])
        static = self.random(sizes, tokens)
        if warm:  # on another stream, as torch.cuda.graph's guide says
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step(*static)
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = self.step(*static)
        for seed in range(2):
            torch.manual_seed(seed)
            with torch.no_grad():
                for tensor in static:
                    tensor.copy_(torch.randn_like(tensor))
            graph.replay()
            replayed = [t.clone() for t in captured]
            again = self.step(*static)
            for got, wanted in zip(replayed, again):
                if warm:
                    self.assertTrue(torch.equal(got, wanted), name)
                else:  # perhaps by other kernels, as nothing was measured
                    error = (got - wanted).float().norm() / wanted.float().norm()
                    self.assertLess(error.item(), 0.02, name)

    def test_replays_what_was_measured_before(self):
        for name in self.LAYERS:
            for tokens in [1, 300, 4096]:
                with self.subTest(name=name, tokens=tokens):
                    self.check(name, tokens, warm=True)

    def test_captures_a_size_that_was_never_measured(self):
        for name in self.LAYERS:
            self.step(*self.random(einforge.Sizes(**self.LAYERS[name]), 512))
            with self.subTest(name=name):
                self.check(name, 2048, warm=False)


class BttMoe(unittest.TestCase):
    """A mixture of 5 experts, of which each of 7 tokens takes 2."""

    @staticmethod
    def operands(sizes, dtype=torch.float64):
        x, a, b, _ = operands(sizes, (7,), dtype)
        gates = torch.rand(7, 2, dtype=dtype)
        stacks = [
            torch.randn(5, *core.shape, dtype=dtype) for core in (a, b)]
        experts = torch.rand(7, 5).topk(2, dim=1).indices
        for tensor in (*stacks, gates):
            tensor.requires_grad_()
        return [x, *stacks, experts, gates]

    def test_opcheck(self):
        op = torch.ops.einforge.btt_moe_linear.default
        for sizes in SIZES:
            torch.library.opcheck(op, tuple(self.operands(sizes)))
        torch.library.opcheck(
            op, tuple(self.operands(SIZES[1], torch.float32)))

    def test_opcheck_of_backward(self):
        for sizes in SIZES:
            args = [t.detach() for t in self.operands(sizes)]
            grad = torch.randn(7, sizes.d_out, dtype=torch.float64)
            for mask in [[True] * 4, [False, True, False, True]]:
                torch.library.opcheck(
                    torch.ops.einforge.btt_moe_linear_backward.default,
                    (grad, *args, mask))

    def test_gradcheck(self):
        for sizes in SIZES:
            self.assertTrue(torch.autograd.gradcheck(
                torch.ops.einforge.btt_moe_linear, self.operands(sizes)))

    def test_compiles_without_a_graph_break(self):
        op = torch.ops.einforge.btt_moe_linear
        args = self.operands(SIZES[1])
        compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(*args), op(*args))


class RmsCap(unittest.TestCase):
    def test_opcheck_and_gradcheck(self):
        core = operands(SIZES[0])[1]
        gain = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        for max_rms in [0.1, 10.0]:
            torch.library.opcheck(
                torch.ops.einforge.rms_cap.default, (core, gain, max_rms))
            self.assertTrue(torch.autograd.gradcheck(
                lambda c, g: einforge.rms_cap(c, g, max_rms), (core, gain)))


class MoeRouterLoss(unittest.TestCase):
    def test_opcheck_and_gradcheck(self):
        op = torch.ops.einforge.moe_router_loss
        logits = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
        experts = torch.randint(4, (9, 2), dtype=torch.int32)
        torch.library.opcheck(op.default, (logits, experts, 0.3, 0.07))
        self.assertTrue(torch.autograd.gradcheck(
            lambda l: op(l, experts, 0.3, 0.07)[0], logits))


class Module(unittest.TestCase):
    def test_caps_follow_the_cheaper_order(self):
        # Widths of the cores as batched matmuls, in that order.
        for sizes, widths in (
            (einforge.Sizes(beta=32, gamma=32, delta=32, phi=32),
             ((32, 32), (32, 32))),  # BA
            (einforge.Sizes(alpha=32, gamma=16, epsilon=64, phi=8),
             ((32, 8), (16, 64))),  # AB
            (einforge.Sizes(beta=8, gamma=2, delta=4, phi=16, rho=3),
             ((6, 4), (8, 48))),  # BA
            (einforge.Sizes(alpha=64, epsilon=32, rho=5),
             ((64, 5), (5, 32))),
        ):
            layer = einforge.EinsumLinear(sizes)
            for std, (d_in, d_out) in zip((layer.std_a, layer.std_b), widths):
                self.assertAlmostEqual(std, min(d_in, d_out) ** 0.5 / d_in)

    def test_loads_what_older_versions_saved(self):
        layer = einforge.EinsumLinear(SIZES[1])
        state = layer.state_dict()
        for name, value in (("gamma_a", 1.5), ("gamma_b", 0.25)):
            del state[name.replace("gamma", "gain")]
            state[name] = torch.tensor(value)
        net = torch.nn.Sequential(einforge.EinsumLinear(SIZES[1]))
        net.load_state_dict({"0." + name: t for name, t in state.items()})
        self.assertEqual(net[0].gain_a.tolist(), [1.5])
        self.assertEqual(net[0].gain_b.tolist(), [0.25])
        state = layer.state_dict()
        state["gain_a"] = torch.tensor(3.0)
        layer.load_state_dict(state)
        self.assertEqual(layer.gain_a.tolist(), [3.0])

    def test_learns(self):
        torch.manual_seed(0)
        layer = einforge.EinsumLinear(SIZES[1])
        x = torch.randn(64, layer.sizes.d_in)
        target = torch.randn(64, layer.sizes.d_out)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
        losses = []
        for _ in range(50):
            loss = (layer(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.assertLess(losses[-1], 0.9 * losses[0])


class Library(unittest.TestCase):
    def test_a_missing_library_is_an_import_error_that_names_it(self):
        result = subprocess.run(
            [sys.executable, "-c", "import einforge"],
            env={**os.environ, "EINFORGE_LIBRARY": "/no/such/file.so",
                 "PYTHONPATH": str(ROOT / "python")},
            capture_output=True, text=True, check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("ImportError: expected libeinforge_python.so at one of "
                      "/no/such/file.so", result.stderr)

    def test_a_kernel_is_forced_by_the_environment(self):
        code = ("import einforge, torch; einforge.einsum_linear("
                "torch.ones(2, 6), torch.ones(3, 2, 1, 2, 1), "
                "torch.ones(1, 2, 4, 2, 1))")
        def run(**variables):
            return subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": str(ROOT / "python"),
                     **variables},
                capture_output=True, text=True, check=False)
        logged = run(EINFORGE_LOG_KERNELS="1", EINFORGE_KERNEL="bmm")
        self.assertEqual(logged.returncode, 0, logged.stderr)
        self.assertIn(": bmm\n", logged.stderr)
        unknown = run(EINFORGE_KERNEL="nonsense")
        self.assertIn("expected EINFORGE_KERNEL to be one of", unknown.stderr)
        self.assertIn("got nonsense", unknown.stderr)


if __name__ == "__main__":
    unittest.main()
