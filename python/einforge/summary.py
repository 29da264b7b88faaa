"""A table of what a model's layers hold and cost."""

from typing import NamedTuple, Optional, overload

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from einforge import structure
from einforge.convert import milliseconds
from einforge.module import EinsumLinear
from einforge.nn import FfnMoe, Linear, MoeLinear
from einforge.structure import Structure


class LayerSummary(NamedTuple):
    """A layer of a model."""

    name: str
    d_in: int
    d_out: int
    structure: str
    parameters: int
    flops: int  # of one vector, forward
    ms: Optional[float]  # forward, at the summary's tokens


class ModelSummary(list):
    """A list of LayerSummary; printed, a table with totals."""

    parameters: int  # of the whole model, shared ones once

    def __str__(self) -> str:
        rows = [("layer", "d_in", "d_out", "structure", "parameters", "FLOPs",
                 "ms")]
        for row in self:
            rows.append((
                row.name, str(row.d_in), str(row.d_out), row.structure,
                f"{row.parameters:,}", f"{row.flops:,}",
                "-" if row.ms is None else f"{row.ms:.4g}"))
        times = [row.ms for row in self if row.ms is not None]
        rows.append((
            "all of these", "", "", "",
            f"{sum(row.parameters for row in self):,}",
            f"{sum(row.flops for row in self):,}",
            f"{sum(times):.4g}" if times else "-"))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(
            cell.ljust(width) if i in (0, 3) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows]
        return "\n".join([*lines, f"parameters of the model: "
                                  f"{self.parameters:,}"])


@overload
def describe(
    what: str, d_in: int, d_out: int, base_width: int = 768
) -> Structure: ...


@overload
def describe(what: nn.Module, *, tokens: int = 0) -> ModelSummary: ...


def describe(what, *args, **kwargs):
    """What a structure is at a width, or what a model's layers hold and cost.

        einforge.describe("btt:0.25", 1024, 4096).parameters
        print(einforge.describe(model, tokens=4096))

    Args:
        what: any name that `einforge describe --list` has, a theta, or a model,
            of which einforge's layers and torch.nn.Linear are rows.
        d_in, d_out: features, of a structure.
        base_width: of a structure: the d_in at which a dense layer's
            learning-rate multiplier is 1.
        tokens: of a model: rows of a random input that each layer is timed with,
            forward, in milliseconds; 0 for no times.

    Returns:
        a Structure, or a ModelSummary, whose FLOPs are those that
        torch.utils.flop_counter counts for a vector.

    Raises:
        ValueError: there is no such structure, or not at these widths; names
            the nearest that there is.
    """
    if isinstance(what, nn.Module):
        return _summary(what, *args, **kwargs)
    return structure.describe(what, *args, **kwargs)


def _summary(model: nn.Module, *, tokens: int = 0) -> ModelSummary:
    summary = ModelSummary()
    summary.parameters = sum(p.numel() for p in model.parameters())
    for name, layer in model.named_modules():
        if isinstance(layer, (Linear, MoeLinear)):
            of = layer.structure.name
            d_in, d_out = layer.in_features, layer.out_features
        elif isinstance(layer, EinsumLinear):
            of = "sizes " + ",".join(map(str, layer.sizes))
            d_in, d_out = layer.sizes.d_in, layer.sizes.d_out
        elif isinstance(layer, FfnMoe):
            of = layer.structures[0].name
            d_in = d_out = layer.structures[0].d_in
        elif isinstance(layer, nn.Linear):
            of, d_in, d_out = "torch.nn.Linear", *layer.weight.shape[::-1]
        else:
            continue
        summary.append(LayerSummary(
            name or "(the model)", d_in, d_out, of,
            sum(p.numel() for p in layer.parameters()),
            _flops(layer, d_in), _milliseconds(layer, d_in, tokens)))
    return summary


def _input(layer: nn.Module, d_in: int, tokens: int):
    parameter = next(layer.parameters())
    return torch.randn(
        tokens, d_in, device=parameter.device, dtype=parameter.dtype)


def _flops(layer: nn.Module, d_in: int) -> int:
    with torch.no_grad(), _evaluated(layer), FlopCounterMode(
            display=False) as counter:
        layer(_input(layer, d_in, 1))
    return counter.get_total_flops()


def _milliseconds(layer: nn.Module, d_in: int, tokens: int) -> Optional[float]:
    if tokens == 0:
        return None
    x = _input(layer, d_in, tokens)
    if x.is_meta:
        return None
    with _evaluated(layer):
        return milliseconds(layer, x)


class _evaluated:
    """In evaluation mode, so that no router keeps a loss of what is timed."""

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.training = [module.training for module in layer.modules()]

    def __enter__(self):
        self.layer.eval()

    def __exit__(self, *_):
        for module, training in zip(self.layer.modules(), self.training):
            module.training = training
