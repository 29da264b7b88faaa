"""Structured linear layers as PyTorch modules.

    from einforge import nn
    layer = nn.Linear(1024, 4096, "btt:0.25")
    mixture = nn.MoeLinear(1024, 4096, "btt_moe:E=16,k=2")

Parametrisation, RMS caps and contraction order are those of arXiv 2410.02117,
section 5, as in the program.
"""

from typing import Any, Iterator, Optional, Union

import torch
from torch import Tensor, nn

from einforge.functional import btt_moe_routed, einsum_linear, rms_cap
from einforge import models
from einforge.models import Router
from einforge.module import adopt_old_gains
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


class MoeLinear(_Cores):
    """E layers of a structure, of which a router picks k for each token.

        y = sum_j gates_j linear_{experts_j}(x) + bias

    Only the chosen experts are computed (BTT-MoE of arXiv 2410.02117, section
    6). In training each forward leaves the router's losses for aux_loss().

    Args:
        d_in, d_out: features.
        structure: "btt_moe:E=16,k=2", "low_rank_moe:E=16,k=2".
        softmax_first: gates are the chosen experts' shares of a softmax over
            all experts, not over the chosen. None: only with k = 1, where the
            other gives a gate of 1 and a router without gradient.
        balance_weight: of the load-balancing loss E sum_i(p_i f_i).
        z_weight: of the mean squared logsumexp of the logits.

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
        softmax_first: Optional[bool] = None,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        found = describe(structure, d_in, d_out)
        if found.experts is None or found.dense:
            raise ValueError(
                "[MoeLinear] expected a mixture of structured experts such as "
                f"'btt_moe:E=16,k=2'; got '{structure}'")
        factory = {"device": device, "dtype": dtype}
        super().__init__(found, (found.experts,), gain, zero, factory)
        self.softmax_first = softmax_first
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        self.router = nn.Parameter(torch.empty(
            found.experts, d_in, device=device, dtype=torch.float32))
        self.register_parameter("bias", nn.Parameter(
            torch.empty(d_out, **factory)) if bias else None)
        # Of the last forward pass in training.
        self.loss: Optional[Tensor] = None
        self.load: Optional[Tensor] = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew; the router starts at zero."""
        self._reset_cores()
        nn.init.zeros_(self.router)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

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
        softmax_first = self.softmax_first
        if softmax_first is None:
            softmax_first = s.active == 1
        found = project_mixture(
            weight.double(), s.sizes, inputs, s.experts, s.active, softmax_first,
            iterations)
        self._load_cores(found.core_a, found.core_b)
        self.router.copy_(found.router)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        a, b = self.cores()
        out = btt_moe_routed(
            x, self.router, a, b, self.structure.active, self.softmax_first,
            output_bias=self.bias)
        if self.training:
            self.loss, self.load = torch.ops.einforge.moe_router_loss(
                out.logits, out.experts, self.balance_weight, self.z_weight)
        return out.y

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        s = self.structure
        found = describe(s.name, s.d_in, s.d_out, base_width)
        return {**super().lr_multipliers(base_width),
                "router": found.router_lr_multiplier}


def mixtures(model: nn.Module) -> Iterator[tuple[str, MoeLinear]]:
    """The mixtures of a model with their dotted names."""
    for name, module in model.named_modules():
        if isinstance(module, MoeLinear):
            yield name, module


def _routings(
    model: nn.Module,
) -> Iterator[tuple[str, Optional[Tensor], Optional[Tensor]]]:
    """Name, loss and tokens per expert of each router's last training pass."""
    for name, module in model.named_modules():
        if isinstance(module, MoeLinear):
            yield name, module.loss, module.load
        elif isinstance(module, Router):
            yield name, module.loss, module.tokens


def aux_loss(model: nn.Module) -> Tensor:
    """The mean of the routers' weighted losses; add it to the loss.

    Of the last forward pass in training; 0 where there was none.
    """
    losses = [loss for _, loss, _ in _routings(model) if loss is not None]
    return torch.stack(losses).mean() if losses else torch.zeros(())


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
    Source: arXiv 2410.02117, section 5.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in model.modules():
        multipliers: dict[str, float] = {}
        if isinstance(module, (_Cores, models.Layer, models.Router,
                               models.FfnMixture)):
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

    For inference and export; mixtures stay. Returns the model.
    """
    for name, child in model.named_children():
        if isinstance(child, (Linear, models.Linear, models.PaddedLinear)):
            weight = child.merged()
            with torch.device("meta"):
                dense = nn.Linear(
                    weight.shape[1], weight.shape[0],
                    bias=child.bias is not None)
            dense.weight = nn.Parameter(weight)
            if child.bias is not None:
                dense.bias = child.bias
            setattr(model, name, dense.train(child.training))
        else:
            merge_(child)
    return model


__all__ = [
    "Core", "Linear", "MoeLinear", "Sizes", "Structure", "aux_loss", "describe",
    "merge_", "mixtures", "param_groups", "router_health",
]
