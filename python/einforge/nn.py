"""Structured linear layers as PyTorch modules.

    from einforge import nn
    layer = nn.Linear(1024, 4096, "btt:0.25")
    mixture = nn.MoeLinear(1024, 4096, "btt_moe:E=16,k=2")

Parametrisation, RMS caps and contraction order are those of arXiv 2410.02117,
section 5, as in the program.
"""

import contextlib
from typing import Any, Iterator, Optional, Union

import torch
from torch import Tensor, nn

from einforge import functional, models
from einforge.functional import (
    btt_moe_linear,
    btt_moe_routed,
    einsum_linear,
    moe_router_loss,
    rms_cap,
)
from einforge.module import EinsumLinear, adopt_old_gains
from einforge.projection import (
    MixtureProjection, Projection, matrix, project, project_mixture)
from einforge.structure import Core, Sizes, Structure, describe


class _Cores(nn.Module):
    """Two cores, each capped in RMS, with or without experts before them."""

    def __init__(
        self,
        structure: Structure,
        experts: tuple[int, ...],
        gain: bool,
        zero: bool,
        factory: dict[str, Any],
    ):
        super().__init__()
        self.structure = structure
        self.zero = zero
        s = structure.sizes
        shapes = {"core_a": s.core_a, "core_b": s.core_b}
        if structure.dense:
            shapes = {"weight": (structure.d_out, structure.d_in)}
        for name, shape in shapes.items():
            self.register_parameter(
                name, nn.Parameter(torch.empty(*experts, *shape, **factory)))
        for name in ("gain_a", "gain_b"):
            # Of one dimension, because FSDP2 shards no scalar.
            self.register_parameter(name, nn.Parameter(
                torch.empty(1, **factory)) if gain and not structure.dense
                else None)

    def _reset_cores(self) -> None:
        s = self.structure
        parameters = [self.weight] if s.dense else [self.core_a, self.core_b]
        for parameter, core in zip(parameters, s.cores):
            nn.init.normal_(parameter, std=core.init_std)
        if self.zero:
            # The core contracted last, so that the other's gradient comes alive
            # after one step.
            nn.init.zeros_(parameters[0 if s.b_first else -1])
        for gain in (self.gain_a, self.gain_b):
            if gain is not None:
                nn.init.ones_(gain)

    def cores(self) -> tuple[Tensor, Tensor]:
        """Both cores as the layer uses them: capped, times their gains."""
        a, b = self.structure.cores
        return (rms_cap(self.core_a, self.gain_a, a.init_std),
                rms_cap(self.core_b, self.gain_b, b.init_std))

    def _load_cores(self, core_a: Tensor, core_b: Tensor) -> None:
        """Sets both cores at their RMS caps, and gains that carry the rest:
        capping then changes nothing."""
        for core, target, gain, value in zip(
                self.structure.cores, (self.core_a, self.core_b),
                (self.gain_a, self.gain_b), (core_a, core_b)):
            value = value.double()
            rms = float(value.square().mean().sqrt())
            # Below the cap, so that rounding does not reach it; the core is
            # divided by the gain as its dtype has it.
            scale = rms / core.init_std * (
                1 + max(1e-6, torch.finfo(gain.dtype).eps))
            gain.fill_(scale if scale > 0 else 1.0)
            target.copy_(value / gain.double())

    def _need_gains(self) -> None:
        if self.gain_a is None:
            raise ValueError(
                "[load_matrix] expected a layer with gains; without them the "
                "RMS cap would rescale its cores")

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        """Of each own parameter that has one other than 1."""
        s = self.structure
        cores = describe(s.name, s.d_in, s.d_out, base_width).cores
        names = ["weight"] if s.dense else ["core_a", "core_b"]
        return {name: core.lr_multiplier for name, core in zip(names, cores)}

    def _load_from_state_dict(self, state_dict, prefix, *args):
        adopt_old_gains(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        s = self.structure
        return f"{s.d_in}, {s.d_out}, {s.name!r}, bias={self.bias is not None}"


class Linear(_Cores):
    """A linear layer of any structure, in place of torch.nn.Linear.

    Args:
        d_in, d_out: features.
        structure: any name that `einforge describe --list` has, a rank
            ("btt:0.25") or a theta ("theta:0.5,0,0.5,0,0.5,0.5,0"); "dense" is
            one matrix.
        bias: whether y has a learned (d_out) added.
        gain: a learned factor for each core; off where a norm follows at once.
        zero: start at zero, as the last layer of a residual branch does.
        device, dtype: of the parameters.

    Raises:
        ValueError: no such structure, or not at these widths.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        structure: str = "btt:0.25",
        bias: bool = True,
        *,
        gain: bool = True,
        zero: bool = False,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        found = describe(structure, d_in, d_out)
        if found.experts is not None:
            raise ValueError(
                f"[Linear] expected a structure without experts; got "
                f"'{structure}': use MoeLinear")
        factory = {"device": device, "dtype": dtype}
        super().__init__(found, (), gain, zero, factory)
        self.register_parameter("bias", nn.Parameter(
            torch.empty(d_out, **factory)) if bias else None)
        self.reset_parameters()

    @property
    def in_features(self) -> int:
        return self.structure.d_in

    @property
    def out_features(self) -> int:
        return self.structure.d_out

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        self._reset_cores()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        s = self.structure
        if s.dense:
            return nn.functional.linear(x, self.weight, self.bias)
        a, b = self.cores()
        if not s.padded:
            return einsum_linear(x, a, b, self.bias)
        x = nn.functional.pad(x, (0, s.sizes.d_in - s.d_in))
        y = einsum_linear(x, a, b)[..., :s.d_out]
        return y if self.bias is None else y + self.bias

    def merged(self) -> Tensor:
        """The dense matrix (d_out, d_in) that does the same, without grad."""
        with torch.no_grad():
            s = self.structure
            if s.dense:
                return self.weight.detach().clone()
            return matrix(*self.cores())[:s.d_out, :s.d_in].contiguous()

    @torch.no_grad()
    def load_matrix(
        self, weight: Tensor, moment: Optional[Tensor] = None,
        iterations: int = 20,
    ) -> Projection:
        """Sets the cores to the projection of a dense (d_out, d_in) matrix.

        `moment` is X^T X (d_in, d_in) of activations X of the layer; with it the
        error of the outputs is minimised, without it that of the matrix. The
        norm is split so that each core sits at its RMS cap and the gains
        carry the rest: capping then changes nothing.

        Raises:
            ValueError: a shape does not fit, or the layer has no gains.
        """
        s = self.structure
        if s.dense:
            self.weight.copy_(weight)
            return Projection(weight, weight, [0.0])
        self._need_gains()
        grow = (0, s.sizes.d_in - s.d_in)
        whole = nn.functional.pad(
            weight.double(), (*grow, 0, s.sizes.d_out - s.d_out))
        if moment is not None:
            moment = nn.functional.pad(moment, (*grow, *grow))
        found = project(whole, s.sizes, iterations=iterations, moment=moment)
        self._load_cores(found.core_a, found.core_b)
        return found


def ffn(
    x: Tensor, first: nn.Module, second: nn.Module,
    fused: Optional[bool] = None,
) -> Tensor:
    """second(gelu(first(x))), gelu in its tanh form, as one where it can be.

        y = nn.ffn(x, self.ffn_in, self.ffn_out)

    For a model that has the two layers by names of their own; Ffn has them
    inside.

    Args:
        x: (..., d_in) of the first layer.
        first, second: modules; two Linear of a structure, without hooks, are
            one operator, einforge.ffn. Others are called one after the other.
        fused: as in einforge.ffn.

    Returns:
        (..., d_out) of the second layer.
    """
    if not (_is_plain(first) and _is_plain(second)):
        return second(nn.functional.gelu(first(x), approximate="tanh"))
    return functional.ffn(
        x, *first.cores(), first.bias, *second.cores(), second.bias, fused)


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer is its structure's arithmetic and no more."""
    return (type(layer) is Linear and not layer.structure.dense
            and not layer.structure.padded and not _has_hooks(layer))


def _has_hooks(layer: nn.Module) -> bool:
    return "forward" in vars(layer) or any(
        getattr(layer, name) for name in _HOOKS)


def _is_network(layers: list[nn.Module]) -> bool:
    """Whether three modules are a network that the operator computes."""
    return (len(layers) == 3 and type(layers[1]) is nn.GELU
            and layers[1].approximate == "tanh"
            and type(layers[0]) is type(layers[2]) is Linear)


def linear_of(
    d_in: int, d_out: int, structure: str, bias: bool, **more: Any
) -> Union[Linear, "MoeLinear"]:
    """The layer of a structure's name: a MoeLinear where it is a mixture."""
    mixture = describe(structure, d_in, d_out).experts is not None
    return (MoeLinear if mixture else Linear)(
        d_in, d_out, structure, bias, **more)


class Ffn(nn.Sequential):
    """A feed-forward network, Linear, GELU in its tanh form and Linear, which
    runs as one operator where it can.

        self.ffn = nn.Ffn(1024, 4096, "monarch")

    A Sequential: the layers are ffn[0] and ffn[2], and a state dict is that of
    torch.nn.Sequential(Linear, torch.nn.GELU("tanh"), Linear). Any other layers
    inside, as after merge_(), and layers with hooks are called one by one.

    Args:
        width, hidden: features outside and inside.
        structure: of both layers, as for Linear, or a mixture as for MoeLinear.
        bias: whether both layers have one.
        zero: the second layer starts at zero, as the end of a residual branch.
        fused: as in einforge.ffn.
        device, dtype: of the parameters.
        router: of mixtures, as for MoeLinear.

    Raises:
        ValueError: no such structure, or not at these widths.
    """

    fused: Optional[bool] = None  # of those that fuse_() makes

    def __init__(
        self,
        width: int,
        hidden: int,
        structure: str = "monarch",
        bias: bool = True,
        *,
        zero: bool = False,
        fused: Optional[bool] = None,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
        **router: Any,
    ):
        more = {"device": device, "dtype": dtype, **router}
        super().__init__(
            linear_of(width, hidden, structure, bias, **more),
            nn.GELU(approximate="tanh"),
            linear_of(hidden, width, structure, bias, zero=zero, **more))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        layers = list(self)
        while layers:
            if _is_network(layers[:3]) and not _has_hooks(layers[1]):
                x = ffn(x, layers[0], layers[2], self.fused)
                layers = layers[3:]
            else:
                x = layers.pop(0)(x)
        return x

    def __getitem__(self, index):
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)


def fuse_(model: nn.Module) -> nn.Module:
    """Makes each torch.nn.Sequential inside that has a Linear of einforge, a
    torch.nn.GELU(approximate="tanh") and a Linear in a row an Ffn.

    In place: names, parameters and hooks stay, and so do all other modules; a
    GELU in its exact form, torch's default, is another function and stays too.
    convert_() does it. Returns the model.
    """
    for module in model.modules():
        if type(module) is nn.Sequential:
            layers = list(module)
            if any(_is_network(layers[i:i + 3]) for i in range(len(layers))):
                module.__class__ = Ffn
    return model


class Router(nn.Module):
    """Picks k of E experts for each token: the highest of x weight^T.

    Args:
        d_in, experts, active: features, E and k.
        softmax_first: gates are the chosen experts' shares of a softmax over
            all experts, not over the chosen. None: only with k = 1 of several,
            where the other gives a gate of 1 and a router without gradient.
        balance_weight: of the load-balancing loss E sum_i(p_i f_i).
        z_weight: of the mean squared logsumexp of the logits.
        init_std: of the initial weights, times sqrt(d_in).
        jitter: in training the router sees each feature times a number in
            [1 - jitter, 1 + jitter].
        bias_rate: step of the balancing bias, which update_biases() moves;
            0 is none, 0.001 usual.

    Scores are float32 (float64 where x is) whatever autocast says. Source:
    arXiv 2410.02117, section 6; arXiv 2101.03961, section 2.2 (load); arXiv
    2202.08906, section 3.1 (z-loss); arXiv 2408.15664 (bias).
    """

    def __init__(
        self,
        d_in: int,
        experts: int,
        active: int,
        *,
        softmax_first: Optional[bool] = None,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        init_std: float = 0.0,
        jitter: float = 0.0,
        bias_rate: float = 0.0,
        device: Optional[Union[torch.device, str]] = None,
    ):
        super().__init__()
        for name, value in (("balance_weight", balance_weight),
                            ("z_weight", z_weight), ("init_std", init_std),
                            ("bias_rate", bias_rate)):
            if value < 0:
                raise ValueError(
                    f"[Router] expected {name} of at least 0; got {value}")
        if not 0 <= jitter < 1:
            raise ValueError(
                f"[Router] expected jitter in [0, 1); got {jitter}")
        if softmax_first is False and active == 1 and experts > 1:
            raise ValueError(
                "[Router] expected softmax_first with 1 active expert, whose "
                "softmax over itself gives the router no gradient; got False")
        self.active = active
        self.softmax_first = softmax_first
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        self.init_std = init_std
        self.jitter = jitter
        self.bias_rate = bias_rate
        self.weight = nn.Parameter(torch.empty(
            experts, d_in, device=device, dtype=torch.float32))
        for name, dtype in (("bias", torch.float32), ("load", torch.int64)):
            self.register_buffer(name, torch.empty(
                experts, device=device, dtype=dtype) if bias_rate > 0 else None)
        # Of the last forward pass in training.
        self.loss: Optional[Tensor] = None
        self.tokens: Optional[Tensor] = None
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files go without the last pass, whose loss has a graph."""
        return {**self.__dict__, "loss": None, "tokens": None}

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        if self.init_std > 0:
            nn.init.normal_(
                self.weight, std=self.init_std / self.weight.shape[1] ** 0.5)
        else:
            nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
            nn.init.zeros_(self.load)

    @property
    def gates_of_all(self) -> bool:
        """Whether gates are shares of a softmax over all experts."""
        if self.softmax_first is None:
            return self.active == 1 and self.weight.shape[0] > 1
        return self.softmax_first

    def wide_weight(self, x: Tensor) -> Tensor:
        """The weight as scores want it, whatever .to() made of it."""
        return self.weight.to(
            torch.float64 if x.dtype == torch.float64 else torch.float32)

    def jittered(self, x: Tensor) -> Tensor:
        """x as the router sees it."""
        if self.training and self.jitter > 0:
            return x * (1 + self.jitter * (2 * torch.rand_like(x) - 1))
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., d_in) -> experts (T, k) int32, the best first, gates (T, k)."""
        with torch.autocast(x.device.type, enabled=False):
            weight = self.wide_weight(x)
            rows = self.jittered(x).reshape(-1, weight.shape[1])
            logits = rows.to(weight.dtype) @ weight.t()
            scores = logits.detach()
            if self.bias is not None:
                scores = scores + self.bias
            experts = scores.sort(
                dim=-1, descending=True, stable=True).indices[:, :self.active]
            gates = (logits.softmax(-1).gather(-1, experts)
                     if self.gates_of_all
                     else logits.gather(-1, experts).softmax(-1))
        experts = experts.to(torch.int32)
        self.observe(logits, experts)
        return experts, gates

    def observe(self, logits: Tensor, experts: Tensor) -> None:
        """Keeps the loss and the load of a forward pass in training."""
        if self.training:
            self.loss, self.tokens = moe_router_loss(
                logits, experts, self.balance_weight, self.z_weight)
            if self.load is not None:
                self.load.add_(self.tokens)

    @torch.no_grad()
    def update_bias(self) -> None:
        """Moves the balancing bias against the load since the last call."""
        if self.bias is not None:
            excess = self.load.sum() - self.load * self.load.numel()
            self.bias.add_(excess.sign(), alpha=self.bias_rate)
            self.load.zero_()

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        """Of the weight: that of a dense layer."""
        return {"weight": base_width / self.weight.shape[1]}


def _experts_linear(rows: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    """rows (N, d_in), each by the matrix of its expert: weight (E, d_out, d_in),
    experts (N) -> (N, d_out)."""
    count, d_out, d_in = weight.shape
    if (rows.is_cuda and rows.dtype == torch.bfloat16 and d_in % 8 == 0
            and d_out % 8 == 0):
        return _grouped(rows, weight, experts)
    # A dense matrix is core A with a core B that is 1.
    return btt_moe_linear(
        rows,
        weight.transpose(1, 2).reshape(count, d_in, 1, d_out, 1, 1),
        weight.new_ones(count, 1, 1, 1, 1, 1),
        experts.unsqueeze(1),
        torch.ones(
            rows.shape[0], 1, device=rows.device,
            dtype=torch.float64 if rows.dtype == torch.float64
            else torch.float32))


def _grouped(rows: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    """The same by torch's grouped matmul, which does not wait for the device."""
    sorted_experts, order = experts.sort(stable=True)
    ends = torch.searchsorted(
        sorted_experts,
        torch.arange(weight.shape[0], device=rows.device, dtype=experts.dtype),
        right=True, out_int32=True)
    y = nn.functional.grouped_mm(
        rows.index_select(0, order), weight.transpose(1, 2), offs=ends)
    inverse = torch.empty_like(order).index_copy_(
        0, order, torch.arange(order.numel(), device=order.device))
    return y.index_select(0, inverse)


def _autocast(x: Tensor) -> Tensor:
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


class MoeLinear(_Cores):
    """E layers of a structure, of which a router picks k for each token.

        y = sum_j gates_j linear_{experts_j}(x) + bias

    Only the chosen experts are computed (BTT-MoE of arXiv 2410.02117, section
    6). In training each forward leaves the router's losses for aux_loss().

    Args:
        d_in, d_out: features.
        structure: "btt_moe:E=16,k=2", "low_rank_moe:E=16,k=2",
            "dense_moe:E=16,k=2".
        bias: one (d_out) for the mixture.
        gain: a learned factor for each core, shared by the experts.
        zero: every expert starts at zero.
        device, dtype: of the parameters; the router's are float32.
        router: options of its Router: softmax_first, balance_weight, z_weight,
            init_std, jitter, bias_rate.

    Raises:
        ValueError: no such mixture, or not at these widths.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        structure: str = "btt_moe:E=16,k=2",
        bias: bool = True,
        *,
        gain: bool = True,
        zero: bool = False,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
        **router: Any,
    ):
        found = describe(structure, d_in, d_out)
        if found.experts is None or found.family == "ffn_moe":
            raise ValueError(
                "[MoeLinear] expected a mixture such as 'btt_moe:E=16,k=2'; got "
                f"'{structure}'" + (": use FfnMoe" if found.experts else ""))
        factory = {"device": device, "dtype": dtype}
        super().__init__(found, (found.experts,), gain, zero, factory)
        self.router = Router(
            d_in, found.experts, found.active, device=device, **router)
        self.register_parameter("bias", nn.Parameter(
            torch.empty(d_out, **factory)) if bias else None)
        self.reset_parameters()

    @property
    def in_features(self) -> int:
        return self.structure.d_in

    @property
    def out_features(self) -> int:
        return self.structure.d_out

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        self._reset_cores()
        self.router.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        old = prefix + "router"  # a parameter of the layer itself once
        if old in state_dict:
            state_dict[old + ".weight"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def load_matrix(
        self, weight: Tensor, inputs: Tensor, iterations: int = 20,
    ) -> MixtureProjection:
        """Sets router and experts so that the outputs on `inputs` (n, d_in),
        activations of the layer, are nearest to those of a dense (d_out, d_in)
        matrix: projection.project_mixture() says how.

        Raises:
            ValueError: a shape does not fit, or the layer has no gains.
        """
        s = self.structure
        self._need_gains()
        found = project_mixture(
            weight.double(), s.sizes, inputs, s.experts, s.active,
            self.router.gates_of_all, iterations)
        self._load_cores(found.core_a, found.core_b)
        self.router.weight.copy_(found.router)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        x = _autocast(x)
        router = self.router
        if self.structure.dense:
            experts, gates = router(x)
            y = _mixed(
                x, experts, gates,
                lambda rows, of: _experts_linear(
                    rows, _autocast(self.weight), of))
            return y if self.bias is None else y + self.bias.to(y.dtype)
        a, b = self.cores()
        if router.training and router.jitter > 0:
            experts, gates = router(x)
            y = btt_moe_linear(x, a, b, experts, gates)
            return y if self.bias is None else y + self.bias.to(y.dtype)
        out = btt_moe_routed(
            x, router.wide_weight(x), a, b, router.active, router.softmax_first,
            bias=router.bias, output_bias=self.bias)
        router.observe(out.logits, out.experts)
        return out.y


def _mixed(x, experts, gates, layer) -> Tensor:
    """The gated sum of what `layer` makes of the rows of all pairs."""
    tokens, active = experts.shape
    d_in = x.shape[-1]  # in place of -1, which no tokens leave open
    rows = x.reshape(tokens, 1, d_in).expand(-1, active, -1)
    y = layer(rows.reshape(tokens * active, d_in), experts.reshape(-1))
    y = (y.unflatten(0, (tokens, active)) * gates.unsqueeze(-1)).sum(1)
    return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[-1])


class FfnMoe(nn.Module):
    """E dense feed-forward networks, of which a router picks k for each token.

        y = sum_j gates_j out_{experts_j} gelu(in_{experts_j} x) + bias

    The standard mixture of experts (arXiv 2101.03961), in place of a whole
    feed-forward network. Experts have no biases of their own; their
    parametrisation is that of dense layers, and gelu is its tanh form.

    Args:
        width, hidden: features outside and inside.
        structure: "ffn_moe:E=8,k=2".
        bias: one (width), at the end.
        zero: every expert's second matrix starts at zero.
        device, dtype: of the parameters; the router's are float32.
        router: as for MoeLinear; init_std is 1 by default.

    Raises:
        ValueError: another structure, or one that cannot be.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        structure: str = "ffn_moe:E=8,k=2",
        bias: bool = True,
        *,
        zero: bool = False,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
        **router: Any,
    ):
        super().__init__()
        found = describe(structure, width, hidden)
        if found.family != "ffn_moe":
            raise ValueError(
                f"[FfnMoe] expected a structure like 'ffn_moe:E=8,k=2'; got "
                f"'{structure}'")
        self.structures = (found, describe(structure, hidden, width))
        self.zero = zero
        factory = {"device": device, "dtype": dtype}
        self.in_weight = nn.Parameter(
            torch.empty(found.experts, hidden, width, **factory))
        self.out_weight = nn.Parameter(
            torch.empty(found.experts, width, hidden, **factory))
        self.router = Router(
            width, found.experts, found.active, device=device,
            **{"init_std": 1.0, **router})
        self.register_parameter("bias", nn.Parameter(
            torch.empty(width, **factory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew."""
        for weight, structure in zip(
                (self.in_weight, self.out_weight), self.structures):
            nn.init.normal_(weight, std=structure.cores[0].init_std)
        if self.zero:
            nn.init.zeros_(self.out_weight)
        self.router.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        x = _autocast(x)
        experts, gates = self.router(x)

        def network(rows, of):
            hidden = _experts_linear(rows, _autocast(self.in_weight), of)
            return _experts_linear(
                nn.functional.gelu(hidden, approximate="tanh"),
                _autocast(self.out_weight), of)

        y = _mixed(x, experts, gates, network)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        """Of both weights: those of dense layers."""
        names = ("in_weight", "out_weight")
        return {
            name: describe(
                s.name, s.d_in, s.d_out, base_width).cores[0].lr_multiplier
            for name, s in zip(names, self.structures)}

    def extra_repr(self) -> str:
        s = self.structures[0]
        return f"{s.d_in}, {s.d_out}, {s.name!r}, bias={self.bias is not None}"


def routers(model: nn.Module) -> Iterator[tuple[str, Router]]:
    """The routers of a model with the dotted names of their mixtures."""
    for name, module in model.named_modules():
        if isinstance(module, Router):
            yield name.rpartition(".")[0], module


def _routings(
    model: nn.Module,
) -> Iterator[tuple[str, Optional[Tensor], Optional[Tensor]]]:
    """Name, loss and tokens per expert of each router's last training pass."""
    for name, router in (*routers(model), *(
            (name, module) for name, module in model.named_modules()
            if isinstance(module, models.Router))):
        _check_not_batched(router.loss)
        yield name, router.loss, router.tokens


def _check_not_batched(loss: Optional[Tensor]) -> None:
    """Of a pass under torch.func.vmap that is over, nothing can be read."""
    if (loss is not None and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
            and torch._C._functorch.is_batchedtensor(loss)):
        raise RuntimeError(
            "[aux_loss] expected the last pass in training to be outside of "
            "torch.func.vmap; inside, add aux_loss(model) there")


def aux_loss(model: nn.Module) -> Tensor:
    """The mean of the routers' weighted losses; add it to the loss.

    Of the last forward pass in training; 0 where there was none, on the device
    of the model, for which a copy would wait.
    """
    losses = [loss for _, loss, _ in _routings(model) if loss is not None]
    if losses:
        return torch.stack(losses).mean()
    first = next(model.parameters(), None)
    return torch.zeros((), device=None if first is None else first.device)


def update_biases(model: nn.Module) -> None:
    """Moves the balancing bias of each router that has one (bias_rate > 0).

    Once an optimiser step. Source: arXiv 2408.15664.
    """
    for _, router in routers(model):
        router.update_bias()


def router_health(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Of each mixture's last forward pass in training: how its load is spread.

    Returns a dict by dotted name with `tokens` (of each expert), `dead` (experts
    without a token) and `largest_share` (of an expert; 1 / E is even). Waits for
    the device.
    """
    health = {}
    for name, _, load in _routings(model):
        if load is not None:
            tokens = load.tolist()
            health[name] = {
                "tokens": tokens,
                "dead": sum(count == 0 for count in tokens),
                "largest_share": max(tokens) / max(1, sum(tokens)),
            }
    return health


def param_groups(
    model: nn.Module,
    lr: float,
    base_width: int = 768,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups for AdamW and its like, so that one rate fits all.

        optimizer = torch.optim.AdamW(nn.param_groups(model, lr=3e-3))

    A core's rate is lr base_width / d_in of the core / 2, a dense matrix's lr
    base_width / d_in (muP); embeddings, norms, gains and biases have lr. Decay
    is for matrices, cores and routers alone. Shared parameters come once.
    For a converted model, base_width is the width that its rate is for: its
    dense layers then have lr itself. Source: arXiv 2410.02117, section 5.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        multipliers: dict[str, float] = {}
        if isinstance(module, (_Cores, FfnMoe, Router, models.Layer,
                               models.Router, models.FfnMixture)):
            multipliers = module.lr_multipliers(base_width)
        elif isinstance(module, nn.Linear):
            multipliers = {"weight": base_width / module.in_features}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            key = (multipliers.get(name, 1.0),
                   weight_decay if name in multipliers else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": lr * multiplier, "weight_decay": decay}
        for (multiplier, decay), parameters in groups.items()
    ]


def merge_(model: nn.Module) -> nn.Module:
    """Replaces each Linear inside by the torch.nn.Linear that does the same.

    For inference and export; mixtures stay. Returns the model, or of a Linear
    itself what replaces it.
    """
    dense: dict[nn.Module, nn.Module] = {}  # once for a layer that comes twice

    def visit(module: nn.Module) -> nn.Module:
        if isinstance(module, (Linear, models.Linear, models.PaddedLinear)):
            if module not in dense:
                dense[module] = _dense(module)
            return dense[module]
        for name, child in module._modules.items():
            if child is not None and (new := visit(child)) is not child:
                setattr(module, name, new)
        return module

    return visit(model)


@contextlib.contextmanager
def cached(model: nn.Module) -> Iterator[nn.Module]:
    """Caps the cores of the layers inside once, on entry, not in every pass.

        with torch.inference_mode(), einforge.nn.cached(model):
            ...

    For inference, as torch.nn.utils.parametrize.cached() is: parameters that
    change inside have no effect, and no gradient reaches cores. Under autocast,
    enter that first.
    """
    layers = [layer for layer in model.modules()
              if isinstance(layer, (_Cores, EinsumLinear, models.Layer))
              and getattr(layer, "core_a", None) is not None
              and "cores" not in vars(layer)]
    with torch.no_grad():
        for layer in layers:
            layer.cores = lambda cores=layer.cores(): cores
    try:
        yield model
    finally:
        for layer in layers:
            del layer.cores


# What register_forward_hook() and its like fill.
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
    "_is_full_backward_hook")


def take_hooks(new: nn.Module, old: nn.Module) -> None:
    """Gives a layer the hooks of the one whose place it takes: the same
    containers, so that handles still remove them."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))


def _dense(layer: nn.Module) -> nn.Linear:
    weight = layer.merged()
    with torch.device("meta"):
        dense = nn.Linear(
            weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    dense.weight = nn.Parameter(weight)
    if layer.bias is not None:
        dense.bias = layer.bias
    take_hooks(dense, layer)
    return dense.train(layer.training)


__all__ = [
    "Core", "Ffn", "FfnMoe", "Linear", "MoeLinear", "Router", "Sizes", "Structure",
    "aux_loss", "cached", "describe", "ffn", "fuse_", "merge_", "param_groups",
    "router_health", "routers", "update_biases",
]
