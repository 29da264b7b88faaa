"""Replaces the linear layers of a model by structured ones, in place."""

import fnmatch
import statistics
import sys
import time
from typing import Callable, NamedTuple, Optional, Union

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from einforge.nn import Linear, MoeLinear, cached, fuse_, linear_of, take_hooks
from einforge.structure import check_name, describe

# Of a layer's time: passes that warm up, and those whose median counts.
_WARM_UP, _RUNS = 5, 15
# As einforge bench: on CUDA so much memory is written so often before each pass,
# which empties the L2 cache and lets the host get ahead.
_FLUSH_BYTES, _FLUSHES = 256 << 20, 10
# Inputs of a layer that are clustered for a mixture, at most.
_INPUTS = 16384


class Row(NamedTuple):
    """What became of one layer."""

    name: str
    d_in: int
    d_out: int
    structure: str
    sizes: Optional[tuple[int, ...]]
    skipped: str  # why it stays dense; empty: converted
    relative_error: Optional[float]  # of the matrix, or of outputs if calibrated
    parameters: tuple[int, int]  # before, after
    flops: tuple[int, int]  # of one vector, forward
    ms: Optional[tuple[float, float]]  # forward, at the report's tokens


class Report(list):
    """A list of Row; printed, a table."""

    def __str__(self) -> str:
        head = ("layer", "d_in", "d_out", "structure", "error", "parameters",
                "FLOPs", "ms")
        rows = [head]
        for row in self:
            pair = lambda both: "-" if both is None else (  # noqa: E731
                f"{both[0]:.4g} -> {both[1]:.4g}")
            rows.append((
                row.name, str(row.d_in), str(row.d_out), row.structure,
                "-" if row.relative_error is None
                else f"{row.relative_error:.4f}",
                pair(row.parameters), pair(row.flops),
                pair(row.ms) + (f" (kept: {row.skipped})" if row.skipped else "")
            ))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths))
            .rstrip() for row in rows)


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D: a Linear whose weight is (d_in, d_out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_of_attention(module: nn.Module) -> bool:
    """torch.nn.MultiheadAttention's last layer, of which it reads the weight."""
    return type(module).__name__ == "NonDynamicallyQuantizableLinear"


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _obstacle(layer: nn.Module) -> str:
    """Why a linear layer can be no other; empty where it can."""
    if parametrize.is_parametrized(layer):
        return "parametrized: parametrize.remove_parametrizations makes it plain"
    if _is_of_attention(layer):
        return "torch's attention reads its weight"
    if type(layer) is not nn.Linear and not _is_conv1d(layer):
        return f"a subclass of torch.nn.Linear, {type(layer).__name__}"
    if "weight" not in layer._parameters:
        return "a hook computes its weight (weight_norm, spectral_norm, pruning)"
    if "forward" in vars(layer):
        return "something has replaced its forward()"
    return ""


def _widths(layer: nn.Module) -> tuple[int, int]:
    """d_in and d_out."""
    if _is_conv1d(layer):
        return tuple(layer.weight.shape)
    return layer.in_features, layer.out_features


def linear_like(module: nn.Module) -> Optional[Tensor]:
    """The (d_out, d_in) matrix of a layer that can be converted, else None."""
    if not _is_linear(module) or _obstacle(module):
        return None
    return module.weight.T if _is_conv1d(module) else module.weight


def replace_(model: nn.Module, layer: nn.Module, new: nn.Module) -> None:
    """Puts `new` in the place of `layer`, under all of its names and with its
    hooks."""
    take_hooks(new, layer)
    for parent in model.modules():
        for leaf, child in parent._modules.items():
            if child is layer:
                setattr(parent, leaf, new)
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Without its fused inference, which reads the weights.
                    parent.activation_relu_or_gelu = 0


def structured(layer: nn.Module, structure: str) -> Union[Linear, MoeLinear]:
    """A layer of that structure with the sizes, bias, dtype and device of a
    dense one, its values still to be set.

    Raises:
        ValueError: no linear layer, or one that cannot have the structure.
    """
    weight = linear_like(layer)
    if weight is None:
        raise ValueError(
            f"[convert_] expected a linear layer; got {type(layer).__name__}")
    d_out, d_in = weight.shape
    return linear_of(
        d_in, d_out, structure, layer.bias is not None,
        device=weight.device, dtype=weight.dtype)


def _is_mixture(structure: str, layer: nn.Module) -> bool:
    try:
        return describe(structure, *_widths(layer)).experts is not None
    except ValueError:
        return False  # its row says why


def milliseconds(layer: nn.Module, x: Tensor) -> float:
    """Of a forward pass."""
    cuda = x.is_cuda
    times = []
    with torch.no_grad():
        flush = torch.empty(
            _FLUSH_BYTES if cuda else 0, dtype=torch.uint8, device=x.device)
        for run in range(_WARM_UP + _RUNS):
            if cuda:
                begin, end = (torch.cuda.Event(enable_timing=True)
                              for _ in range(2))
                for _ in range(_FLUSHES):
                    flush.zero_()
                begin.record()
                layer(x)
                end.record()
                end.synchronize()
                spent = begin.elapsed_time(end)
            else:
                start = time.perf_counter()
                layer(x)
                spent = 1e3 * (time.perf_counter() - start)
            if run >= _WARM_UP:
                times.append(spent)
    return statistics.median(times)


def _observe(
    model: nn.Module,
    layers: dict[str, nn.Module],
    mixtures: set[str],
    calibration: Callable[[nn.Module], object],
) -> dict[str, Tensor]:
    """Of each layer's inputs X over one call of `calibration`: X^T X, or X
    itself (its first rows) for a layer that becomes a mixture."""
    seen: dict[str, Tensor] = {}

    def hook(name):
        def add(_, args, kwargs):
            given = args[0] if args else next(iter(kwargs.values()))
            x = given.detach().reshape(-1, given.shape[-1])
            before = seen.get(name)
            if name in mixtures:
                seen[name] = (x if before is None
                              else torch.cat((before, x)))[:_INPUTS]
            else:
                now = x.double().T @ x.double()
                seen[name] = now if before is None else now + before
        return add

    handles = [
        layer.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, layer in layers.items()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            calibration(model)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if layers and not seen:
        raise ValueError(
            "[convert_] expected calibration to run the model that it is given; "
            "none of the layers had an input")
    return seen


def convert_(
    model: nn.Module,
    structures: Union[str, dict[str, str]],
    init: str = "project",
    *,
    calibration: Optional[Callable[[nn.Module], object]] = None,
    skip_if_slower: bool = False,
    tokens: int = 4096,
    measure: bool = True,
    iterations: int = 20,
) -> Report:
    """Replaces torch.nn.Linear (and transformers' Conv1D) by einforge.nn.Linear
    or, where the structure is a mixture, einforge.nn.MoeLinear; two in a
    Sequential with a GELU between become an einforge.nn.Ffn (nn.fuse_).

        convert_(model, {"*.mlp.*": "btt:0.25", "*.attn.*": "monarch"})

    Args:
        model: changed in place; bias, dtype, device, training mode and hooks
            of the layers stay.
        structures: of each layer whose dotted name matches the pattern (shell
            wildcards), the first that does; a string is {"*": string}.
        init: "project" sets the cores to the nearest matrix, "random" draws
            them.
        calibration: runs the model on data; the error of each layer's outputs
            on its inputs there is minimised in place of the matrix's, where the
            data reach it. Mixtures need it: their experts are fitted to clusters
            of the inputs.
        skip_if_slower: a layer that takes longer forward at `tokens` tokens
            stays as it is.
        tokens: rows of the input with which layers are timed, their cores
            capped beforehand (nn.cached()).
        measure: whether to time layers at all.
        iterations: of the calibrated projection, at most.

    Returns:
        a Report with a row per layer that a pattern matches.

    Raises:
        ValueError: a pattern matches no layer, an unknown `init` or structure,
        a calibration that reaches no layer.
        A layer that cannot have the structure stays, with the reason in its row;
        so does one whose weight other modules share, is parametrized or made by
        a hook.
    """
    patterns = {"*": structures} if isinstance(structures, str) else structures
    _check_arguments(model, patterns, init, calibration, tokens, iterations)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    chosen: dict[str, str] = {}
    unused = dict(patterns)
    layers: dict[str, nn.Module] = {}
    # Under all names of a layer that comes twice.
    for name, module in model.named_modules(remove_duplicate=False):
        if not _is_linear(module):
            continue
        for pattern, structure in patterns.items():
            if fnmatch.fnmatchcase(name, pattern):
                unused.pop(pattern, None)
                if module not in layers.values():
                    chosen[name] = structure
                    layers[name] = module
                break
    if unused:
        raise ValueError(
            f"[convert_] expected patterns that match linear layers; got "
            f"{', '.join(map(repr, unused))}")
    seen = {}
    if calibration is not None and init == "project":
        able = {name: layer for name, layer in layers.items()
                if not _obstacle(layer)}
        seen = _observe(
            model, able,
            {name for name in able if _is_mixture(chosen[name], able[name])},
            calibration)
    report = Report()
    for name, layer in layers.items():
        report.append(_convert(
            model, name, layer, chosen[name], init, seen.get(name),
            owners.get(id(layer.weight), 1) > 1, skip_if_slower, tokens,
            measure or skip_if_slower, iterations))
    fuse_(model)
    transformers = sys.modules.get("transformers")
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        from einforge import hf
        hf.record(model)
    return report


def _check_arguments(
    model, patterns, init, calibration, tokens, iterations
) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(
            "[convert_] expected a torch.nn.Module; got a "
            f"{type(model).__name__}")
    if _is_linear(model):
        raise ValueError(
            "[convert_] expected a model with layers inside; got a layer, which "
            "einforge.nn.Linear(...).load_matrix(layer.weight) projects")
    if not isinstance(patterns, dict):
        raise ValueError(
            "[convert_] expected the name of a structure, or a dict of names by "
            f"pattern; got {patterns!r}")
    for structure in patterns.values():
        check_name(structure)
    if init not in ("project", "random"):
        raise ValueError(
            f"[convert_] expected init 'project' or 'random'; got {init!r}")
    if calibration is not None and not callable(calibration):
        raise ValueError(
            "[convert_] expected calibration to be a function that runs the "
            f"model it is given; got a {type(calibration).__name__}")
    for name, value, least in (
            ("tokens", tokens, 1), ("iterations", iterations, 0)):
        if value < least:
            raise ValueError(
                f"[convert_] expected {name} of at least {least}; got {value}")


def _convert(model, name, layer, structure, init, seen, shared,
             skip_if_slower, tokens, measure, iterations) -> Row:
    d_in, d_out = _widths(layer)
    before = d_out * d_in + (0 if layer.bias is None else d_out)
    kept = Row(name, d_in, d_out, structure, None, "", None, (before, before),
               (2 * d_out * d_in, 2 * d_out * d_in), None)
    if obstacle := _obstacle(layer):
        return kept._replace(skipped=obstacle)
    if shared:
        return kept._replace(skipped="its weight is shared")
    weight = linear_like(layer).detach()
    try:
        new = structured(layer, structure)
    except ValueError as error:
        return kept._replace(skipped=str(error))
    found = new.structure
    error = None
    if init == "project":
        if found.experts is not None and seen is None:
            return kept._replace(skipped="a mixture needs calibration")
        if found.experts is not None and found.dense:
            return kept._replace(
                skipped="a mixture of dense matrices has no projection")
        if weight.is_meta:
            return kept._replace(skipped="its weight has no values yet")
        if not torch.isfinite(weight).all() or (
                seen is not None and not torch.isfinite(seen).all()):
            return kept._replace(skipped="its weight or inputs are not finite")
        error = new.load_matrix(weight, seen, iterations).errors[-1]
    with torch.no_grad():
        if layer.bias is not None:
            new.bias.copy_(layer.bias)
    new.train(layer.training)
    for parameter in new.parameters():
        parameter.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None:
        new.bias.requires_grad_(layer.bias.requires_grad)
    ms = None
    if measure:
        x = torch.randn(tokens, d_in, device=weight.device, dtype=weight.dtype)
        with cached(new):  # as einforge bench does
            ms = (milliseconds(layer, x), milliseconds(new, x))
    after = sum(parameter.numel() for parameter in new.parameters())
    row = Row(name, d_in, d_out, found.name, tuple(found.sizes), "", error,
              (before, after), (2 * d_out * d_in, 2 * found.macs), ms)
    if skip_if_slower and ms[1] > ms[0]:
        return row._replace(skipped="slower")
    replace_(model, layer, new)
    return row
