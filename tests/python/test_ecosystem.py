"""The layers under PyTorch's own tools, one test each.

Run by ctest; by hand: EINFORGE_LIBRARY=.../libeinforge_python.so python
test_ecosystem.py. With EINFORGE_TEST_DEVICE=cuda on a GPU.
"""

import copy
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import torch  # noqa: E402
import torch._inductor.config  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import einforge  # noqa: E402
from einforge import nn  # noqa: E402

DEVICE = os.environ.get("EINFORGE_TEST_DEVICE", "cpu")
# So few kernels compile faster without precompiled headers, and as scalar code:
# each set of vector instructions has a trial program, run in a new Python.
INDUCTOR = {"cpp.vec_isa_ok": False,
            "cpp_cache_precompile_headers": False,
            "aot_inductor.precompile_headers": False,
            "aot_inductor.compile_wrapper_opt_level": "O0"}


class Net(torch.nn.Module):
    """A layer of each kind, in the places of a transformer's block."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        f = {"device": DEVICE, "dtype": dtype}
        self.embedding = torch.nn.Embedding(11, 32, **f)
        self.up = nn.Linear(32, 64, "btt:0.25", **f)
        self.down = nn.Linear(64, 32, "low_rank:0.5", **f)
        self.sized = einforge.EinsumLinear(
            einforge.Sizes(alpha=4, gamma=8, epsilon=4, phi=8), **f)
        self.mixture = nn.MoeLinear(32, 32, "btt_moe:E=4,k=2", **f)
        self.dense = nn.MoeLinear(32, 32, "dense_moe:E=3,k=1", **f)
        self.ffn = nn.FfnMoe(32, 64, "ffn_moe:E=3,k=2", **f)
        self.network = nn.Ffn(32, 64, "btt:0.25", fused=True, **f)
        self.head = torch.nn.Linear(32, 11, bias=False, **f)
        self.head.weight = self.embedding.weight
        for _, router in nn.routers(self):
            if dtype == torch.float64:  # or it would round what is compared
                router.double()
            torch.nn.init.normal_(router.weight)

    def forward(self, tokens):
        h = self.embedding(tokens)
        h = h + self.down(torch.nn.functional.gelu(self.up(h)))
        h = h + self.mixture(self.sized(h))
        h = h + self.network(h + self.dense(h))
        return self.head(h + self.ffn(h))


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net(dtype)


def tokens(count):
    torch.manual_seed(1)
    return torch.randint(11, (count,), device=DEVICE)


def gradients(model, output):
    model.zero_grad()
    (output.float().square().mean() + nn.aux_loss(model)).backward()
    return [p.grad.clone() for p in model.parameters()]


class Compiler(unittest.TestCase):
    @staticmethod
    def few_layers():
        """For Inductor, which compiles C++ for seconds a kernel."""
        torch.manual_seed(0)
        return torch.nn.Sequential(
            nn.Ffn(32, 64, "btt:0.25", device=DEVICE),
            nn.Ffn(32, 64, "monarch", fused=True, device=DEVICE),
            nn.MoeLinear(32, 32, "btt_moe:E=4,k=2", device=DEVICE))

    def check_one_graph(self, model, inputs, **options):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(
            model, fullgraph=True, dynamic=True, **options)
        for x in inputs:
            wanted = model(x)
            of_eager = gradients(model, wanted)
            got = compiled(x)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
            for grad, of in zip(gradients(model, got), of_eager):
                torch.testing.assert_close(grad, of, rtol=1e-3, atol=1e-5)
        self.assertEqual(
            torch._dynamo.utils.counters["stats"]["unique_graphs"], 1)

    def test_one_graph_of_all_layers_takes_all_token_counts(self):
        self.check_one_graph(
            net(), map(tokens, (5, 9, 16)), backend="aot_eager")

    def test_inductor_takes_all_token_counts(self):
        with torch._inductor.config.patch(INDUCTOR):
            self.check_one_graph(
                self.few_layers(),
                [torch.randn(count, 32, device=DEVICE) for count in (5, 9)])

    def test_export_and_aot_inductor(self):
        model = self.few_layers().eval()
        with torch.no_grad(), torch._inductor.config.patch(INDUCTOR):
            program = torch.export.export(
                model, (torch.randn(6, 32, device=DEVICE),),
                dynamic_shapes=({0: torch.export.Dim("tokens", min=2,
                                                     max=1024)},))
            with tempfile.TemporaryDirectory() as folder:
                path = torch._inductor.aoti_compile_and_package(
                    program, package_path=f"{folder}/model.pt2")
                packaged = torch._inductor.aoti_load_package(path)
                for count in (3, 8):
                    x = torch.randn(count, 32, device=DEVICE)
                    for runner in (program.module(), packaged):
                        torch.testing.assert_close(
                            runner(x), model(x), rtol=1e-4, atol=1e-5)


class Training(unittest.TestCase):
    def test_autocast(self):
        model, x = net(), tokens(12)
        wanted = model(x)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            y = model(x)
        self.assertEqual(y.dtype, torch.bfloat16)
        self.assertLess(
            float((y - wanted).detach().norm() / wanted.detach().norm()), 0.1)
        for grad, parameter in zip(gradients(model, y), model.parameters()):
            self.assertEqual(grad.dtype, parameter.dtype)
            self.assertTrue(torch.isfinite(grad).all())

    def test_checkpointing(self):
        model, x = net(), tokens(7)
        wanted = gradients(model, model(x))
        got = gradients(model, checkpoint(model, x, use_reentrant=False))
        for a, b in zip(got, wanted):
            torch.testing.assert_close(a, b)

    def test_double_backward(self):
        model, x = net(torch.float64), tokens(5)
        weights = [p for p in model.parameters()]

        def norm():
            grads = torch.autograd.grad(
                model(x).square().sum(), weights, create_graph=True)
            return sum(g.square().sum() for g in grads)

        core = model.up.core_a
        slope = torch.autograd.grad(norm(), core)[0]
        direction = torch.randn_like(core)
        step = 1e-5
        with torch.no_grad():
            core.add_(step * direction)
        above = norm()
        with torch.no_grad():
            core.sub_(2 * step * direction)
        below = norm()
        torch.testing.assert_close(
            (slope * direction).sum(), (above - below) / (2 * step),
            rtol=1e-6, atol=1e-6)

    def test_an_optimiser_lowers_the_loss(self):
        model, x = net(), tokens(64)
        optimizer = torch.optim.AdamW(
            nn.param_groups(model, lr=1e-3, base_width=32))
        losses = []
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(x), x)
            optimizer.zero_grad()
            (loss + nn.aux_loss(model)).backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        self.assertLess(losses[-1], 0.7 * losses[0])

    def test_ddp_and_fsdp2(self):
        code = """
import sys, torch, torch.distributed as dist
from torch.multiprocessing import start_processes
sys.path.insert(0, {folder!r})
import test_ecosystem as t
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

def run(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method="file://" + file, rank=rank, world_size=2)
    x = t.tokens(8)
    # In float64, where the order of sums is worth 1e-15, so that what differs
    # is the gradient.
    whole = t.net(torch.float64)
    wanted = whole(x)
    wanted.square().mean().backward()
    halves = x.chunk(2)

    def check(model, gather):
        y = model(halves[rank])
        torch.testing.assert_close(y, wanted.chunk(2)[rank])
        y.square().mean().backward()
        for (name, got), of in zip(model.named_parameters(),
                                   whole.parameters()):
            torch.testing.assert_close(
                gather(got.grad), of.grad, rtol=1e-9, atol=1e-12,
                msg=lambda text: name + text)

    check(DistributedDataParallel(t.net(torch.float64)), lambda grad: grad)
    sharded = t.net(torch.float64)
    for layer in (sharded.up, sharded.down, sharded.sized, sharded.mixture,
                  sharded.dense, sharded.ffn):
        fully_shard(layer)
    fully_shard(sharded)
    check(sharded, lambda grad: grad.full_tensor())
    dist.destroy_process_group()

if __name__ == "__main__":
    # By fork, so that torch is imported once.
    start_processes(run, (sys.argv[1],), nprocs=2, start_method="fork")
"""
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder) / "run.py"
            script.write_text(code.format(folder=str(ROOT / "tests/python")))
            result = subprocess.run(
                [sys.executable, script, f"{folder}/store"],
                env={**os.environ, "EINFORGE_TEST_DEVICE": "cpu"},
                capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])


class Modules(unittest.TestCase):
    def test_copies_files_and_tied_weights(self):
        model, x = net(), tokens(9)
        model(x)  # in training, whose losses have a graph
        model.eval()
        wanted = model(x)
        other = Net().eval()
        other.load_state_dict(model.state_dict())
        for twin in (other, copy.deepcopy(model),
                     pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(x), wanted)
            self.assertIs(twin.head.weight, twin.embedding.weight)

    def test_to_bfloat16(self):
        model, x = net().eval(), tokens(9)
        wanted = model(x)
        y = model.to(torch.bfloat16)(x)
        self.assertEqual(y.dtype, torch.bfloat16)
        self.assertLess(
            float((y - wanted).detach().norm() / wanted.detach().norm()), 0.1)

    def test_meta_device(self):
        with torch.device("meta"):
            blank = torch.nn.ModuleList([
                nn.Linear(32, 64, "btt:0.25"), nn.Linear(32, 32, "dense"),
                nn.MoeLinear(32, 32, "btt_moe:E=4,k=2"),
                nn.MoeLinear(32, 32, "dense_moe:E=4,k=2"),
                nn.FfnMoe(32, 64), einforge.EinsumLinear(
                    einforge.Sizes(4, 1, 8, 1, 4, 8, 1)),
                nn.MoeLinear(32, 32, "btt_moe:E=4,k=2", bias_rate=0.01)])
        self.assertTrue(all(p.is_meta for p in blank.parameters()))
        blank.to_empty(device=DEVICE)
        for tensor in blank.state_dict().values():
            tensor.fill_(9)  # what memory held before
        for module in blank.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for layer in blank:
            for name, tensor in layer.state_dict().items():
                leaf = name.rpartition(".")[2]
                if leaf in ("bias", "load") or name == "router.weight" and (
                        not isinstance(layer, nn.FfnMoe)):
                    self.assertEqual(float(tensor.abs().max()), 0, name)
                elif leaf.startswith("gain"):
                    self.assertEqual(tensor.tolist(), [1.0])
                else:
                    self.assertLess(abs(float(tensor.mean())), 0.1)
                    self.assertGreater(float(tensor.std()), 0.01, name)

    def test_summary(self):
        model = net()
        summary = einforge.describe(model, tokens=16)
        rows = {row.name: row for row in summary}
        self.assertEqual(
            list(rows),
            ["up", "down", "sized", "mixture", "dense", "ffn", "network.0",
             "network.2", "head"])
        self.assertEqual(
            summary.parameters, sum(p.numel() for p in model.parameters()))
        found = einforge.describe("btt:0.25", 32, 64)
        # Its gains and bias beside the cores.
        self.assertEqual(rows["up"].parameters, found.parameters + 2 + 64)
        self.assertEqual(rows["up"].flops, 2 * found.macs)
        # Two batched matmuls of 8 blocks of 4 by 8 and 8 by 4.
        self.assertEqual(rows["sized"].flops, 2 * (8 * 4 * 8 + 8 * 8 * 4))
        self.assertEqual(
            rows["mixture"].flops,
            2 * einforge.describe("btt_moe:E=4,k=2", 32, 32).macs)
        # k = 2 networks of two matrices, and the router.
        self.assertEqual(rows["ffn"].flops, 2 * (2 * 2 * 32 * 64 + 3 * 32))
        self.assertEqual(rows["head"].flops, 2 * 32 * 11)
        self.assertTrue(all(row.ms > 0 for row in summary))
        self.assertIn("btt_moe:E=4,k=2", str(summary))
        self.assertTrue(model.training)
        self.assertEqual(nn.router_health(model), {})


class Transforms(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(2)
        self.layer = torch.nn.Sequential(
            nn.Linear(16, 16, "monarch", dtype=torch.float64),
            torch.nn.Tanh(), nn.Linear(16, 8, "btt:0.25", dtype=torch.float64),
            torch.nn.Tanh(),
            nn.MoeLinear(8, 8, "btt_moe:E=3,k=2", dtype=torch.float64)).eval()
        torch.nn.init.normal_(self.layer[4].router.weight)
        self.x = torch.randn(5, 16, dtype=torch.float64)
        self.parameters = dict(self.layer.named_parameters())

    def loss(self, parameters, x):
        return torch.func.functional_call(
            self.layer, parameters, (x,)).square().sum()

    def test_grad(self):
        self.loss(self.parameters, self.x).backward()
        found = torch.func.grad(self.loss)(self.parameters, self.x)
        for name, parameter in self.parameters.items():
            torch.testing.assert_close(
                found[name], parameter.grad, check_dtype=False)

    def test_gradients_of_each_sample(self):
        found = torch.func.vmap(torch.func.grad(self.loss), (None, 0))(
            self.parameters, self.x.unsqueeze(1))
        for i in range(5):
            one = torch.func.grad(self.loss)(self.parameters, self.x[i:i + 1])
            for name, grad in one.items():
                torch.testing.assert_close(found[name][i], grad)

    def test_hessian_vector_product(self):
        x, v = self.x, torch.randn_like(self.x)

        def f(x):
            return self.layer(x).square().sum()

        _, found = torch.func.vjp(torch.func.grad(f), x)
        step = 1e-5
        by_difference = (torch.func.grad(f)(x + step * v)
                         - torch.func.grad(f)(x - step * v)) / (2 * step)
        torch.testing.assert_close(
            found(v)[0], by_difference, rtol=1e-5, atol=1e-7)

    def test_forward_mode(self):
        """Directional derivatives, by torch.func and by dual numbers, of x and
        of all parameters, are those of reverse mode."""
        def loss(parameters, x):
            y = torch.func.functional_call(self.layer, parameters, (x,))
            return y.square().sum() + nn.aux_loss(self.layer)

        operands = ({k: v.detach() for k, v in self.parameters.items()}, self.x)
        directions = ({k: torch.randn_like(v) for k, v in operands[0].items()},
                      torch.randn_like(self.x))
        for training in (False, True):
            self.layer.train(training)
            of_parameters, of_x = torch.func.grad(
                loss, argnums=(0, 1))(*operands)
            wanted = (of_x * directions[1]).sum() + sum(
                (grad * directions[0][name]).sum()
                for name, grad in of_parameters.items())
            _, found = torch.func.jvp(loss, operands, directions)
            torch.testing.assert_close(found, wanted, check_dtype=False)
            with torch.autograd.forward_ad.dual_level():
                dual = [
                    torch.utils._pytree.tree_map(
                        torch.autograd.forward_ad.make_dual, value, direction)
                    for value, direction in zip(operands, directions)]
                found = torch.autograd.forward_ad.unpack_dual(
                    loss(*dual)).tangent
            torch.testing.assert_close(found, wanted, check_dtype=False)

    def test_forward_over_reverse(self):
        def f(x):
            return self.layer(x).square().sum()

        v = torch.randn_like(self.x)
        _, found = torch.func.jvp(torch.func.grad(f), (self.x,), (v,))
        _, reverse = torch.func.vjp(torch.func.grad(f), self.x)
        torch.testing.assert_close(found, reverse(v)[0])
        # Of the cores, of all outputs: no column is another's.
        cores = tuple(core.detach() for core in self.layer[2].cores())
        hidden = self.layer[:2](self.x).detach()

        def layer(x, a, b):
            return einforge.einsum_linear(x, a, b).square().sum()

        found = torch.func.hessian(layer, argnums=(0, 1, 2))(hidden, *cores)
        wanted = torch.autograd.functional.hessian(layer, (hidden, *cores))
        for row, of in zip(found, wanted):
            for block, other in zip(row, of):
                torch.testing.assert_close(block, other)

    def test_no_loss_outlives_vmap(self):
        layer = nn.MoeLinear(8, 8, "btt_moe:E=3,k=2")
        torch.func.vmap(layer)(torch.randn(2, 4, 8))
        for read in (nn.aux_loss, nn.router_health):
            with self.assertRaisesRegex(RuntimeError, "outside of torch.func"):
                read(layer)
        layer(torch.randn(4, 8))
        self.assertGreater(nn.aux_loss(layer).item(), 0)

    def test_an_ensemble(self):
        layers = [nn.Linear(16, 16, "monarch", dtype=torch.float64)
                  for _ in range(3)]
        parameters, buffers = torch.func.stack_module_state(layers)
        found = torch.func.vmap(
            lambda p, b: torch.func.functional_call(
                layers[0], (p, b), (self.x,)))(parameters, buffers)
        for y, layer in zip(found, layers):
            torch.testing.assert_close(y, layer(self.x))


class Tools(unittest.TestCase):
    def test_flop_counter(self):
        for name in ("monarch", "btt:0.25", "theta:0.25,0.25,0.5,0.25,0.25,"
                     "0.5,0.1"):
            layer = nn.Linear(64, 256, name, bias=False, device=DEVICE)
            x = torch.randn(10, 64, device=DEVICE, requires_grad=True)
            with FlopCounterMode(display=False) as forward:
                y = layer(x)
            macs = einforge.describe(name, 64, 256).macs
            self.assertEqual(forward.get_total_flops(), 2 * 10 * macs)
            with FlopCounterMode(display=False) as backward:
                y.sum().backward()
            self.assertEqual(
                backward.get_total_flops(), 2 * forward.get_total_flops())

    def test_merged_for_export(self):
        model, x = net().eval(), tokens(4)
        wanted = model(x)
        merged = nn.merge_(model)
        self.assertIs(type(merged.up), torch.nn.Linear)
        self.assertIs(type(merged.down), torch.nn.Linear)
        torch.testing.assert_close(merged(x), wanted, rtol=1e-4, atol=1e-5)
        # ONNX, among others, knows torch's own operators alone.
        program = torch.export.export(
            torch.nn.Sequential(merged.up, merged.down),
            (torch.randn(3, 32, device=DEVICE),))
        self.assertEqual(
            {node.target.namespace for node in program.graph.nodes
             if node.op == "call_function"}, {"aten"})

    def test_opcheck_of_the_smaller_operators(self):
        core = torch.randn(3, 4, 5, dtype=torch.float64, device=DEVICE)
        gain = torch.tensor([1.5], dtype=torch.float64, device=DEVICE)
        grad = torch.randn_like(core)
        logits = torch.randn(9, 4, device=DEVICE)
        experts = torch.randint(4, (9, 2), device=DEVICE)
        loss, load = einforge.moe_router_loss(logits, experts)
        ops = torch.ops.einforge
        for given in (gain, None):
            torch.library.opcheck(
                ops.rms_cap_backward.default, (grad, core, given, 0.5))
        torch.library.opcheck(
            ops.moe_router_loss_backward.default, (loss, logits, load, 1.0, 0.1))


class Errors(unittest.TestCase):
    def test_of_sizes_say_what_is_expected(self):
        for arguments, words in (
                ((64, 64), "nn.Linear"), (("monarch",), "nn.Linear"),
                (((1, 2, 3),), "seven sizes"), ((None,), "seven sizes"),
                (((1.5, 1, 1, 1, 1, 1, 1),), "seven sizes"),
                (((-4, 1, 1, 1, 1, 1, 1),), "above 0"),
                (((4, 1, 0, 1, 1, 1, 1),), "above 0")):
            with self.assertRaisesRegex(ValueError, words) as caught:
                einforge.EinsumLinear(*arguments)
            self.assertNotIn("\n", str(caught.exception))

    def test_of_routers(self):
        for options, words in (
                ({"jitter": 1.0}, "jitter"), ({"z_weight": -1.0}, "z_weight"),
                ({"init_std": -1.0}, "init_std")):
            with self.assertRaisesRegex(ValueError, words):
                nn.MoeLinear(16, 16, "btt_moe:E=4,k=2", **options)
        with self.assertRaisesRegex(ValueError, "softmax_first"):
            nn.MoeLinear(16, 16, "btt_moe:E=4,k=1", softmax_first=False)
        with self.assertRaisesRegex(ValueError, "FfnMoe"):
            nn.MoeLinear(16, 16, "ffn_moe:E=4,k=1")
        with self.assertRaisesRegex(ValueError, "ffn_moe"):
            nn.FfnMoe(16, 16, "btt_moe:E=4,k=1")


if __name__ == "__main__":
    unittest.main()
