"""What torch needs of the operators beside their kernels.

The library has a kernel of each operator for the CPU and for CUDA, over torch's
stable ABI. Here are the shapes (for tracing), gradients, autocast and FLOPs.

Each operator f has a torch.autograd.Function, registered for Autograd. Under a
transform of torch.func it is called directly (`_register`), because operators
that are registered cannot be transformed. In forward mode einsum_linear has a
rule (jvp); the others are computed by their definitions, of it and plain torch.
"""

import os
import sys
from typing import Any, Callable, Optional, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

ops = torch.ops.einforge
_library = torch.library.Library("einforge", "IMPL")


def _transformed() -> bool:
    return (not torch.compiler.is_compiling()
            and torch._C._are_functorch_transforms_active())


def _forward_mode() -> bool:
    """Whether tensors may be dual numbers, by torch.func or by forward_ad."""
    return (not torch.compiler.is_compiling()
            and forward_ad._current_level >= 0)


def _below_autograd(op, *args):
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def _any_requires_grad(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _loop(call: Callable, info, in_dims, args):
    """The rule of vmap: one call after the other."""
    results = [
        call(*(arg.select(dim, i)
               if isinstance(arg, Tensor) and dim is not None else arg
               for arg, dim in zip(args, in_dims)))
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return (tuple(map(torch.stack, zip(*results))), (0,) * len(results[0]))


class _Operator(torch.autograd.Function):
    """An operator with its gradient; `op` has the kernels."""

    op: Any
    definition: Optional[Callable] = None  # of all arguments, of plain torch
    generate_vmap_rule = False

    @classmethod
    def kernel(cls, *args, **kwargs):
        """What the dispatcher runs for Autograd."""
        args = cls.filled(*args, **kwargs)
        if _forward_mode():
            return (cls.definition or cls.apply)(*args)
        if _any_requires_grad(args):
            return cls.apply(*args)
        return _below_autograd(cls.op, *args)

    @staticmethod
    def filled(*args):
        """All arguments, as the dispatcher leaves out defaults."""
        return args


def _register(cls: type[_Operator]) -> Callable:
    """Adds forward and vmap to a class and registers it for its operator.

    Returns the operator that works under torch.func's transforms too.
    """
    op, apply = cls.op, cls.apply

    def call(*args):
        if not _transformed():
            return op(*args)
        if _forward_mode() and cls.definition is not None:
            return cls.definition(*args)
        return apply(*args)

    def forward(*args):
        return _below_autograd(op, *args)

    def vmap(info, in_dims, *args):
        return _loop(call, info, in_dims, args)

    cls.forward = staticmethod(forward)
    if "vmap" not in vars(cls):
        cls.vmap = staticmethod(vmap)
    name = cls.op._schema.name.partition("::")[2]
    _library.impl(name, cls.kernel, "Autograd")
    return call


def _fake(name: str) -> Callable:
    return torch.library.register_fake(f"einforge::{name}", lib=_library)


def _asked(asked: bool, tensor: Tensor, like: Optional[Tensor] = None):
    """A gradient: none, of size (0), where it is not asked for."""
    if not asked:
        return (tensor if like is None else like).new_empty(0)
    return torch.empty_like(tensor)


def _contiguous(asked: bool, tensor: Tensor, like: Optional[Tensor] = None):
    if not asked:
        return (tensor if like is None else like).new_empty(0)
    return tensor.new_empty(tensor.shape)


def _masked(mask: Sequence[bool], gradients: Sequence[Tensor]):
    return [gradient if asked else None
            for asked, gradient in zip(mask, gradients)]


def _by_definition(definition, operands, mask, grads):
    """Gradients that can be differentiated, of plain torch's definition."""
    filled = list(operands)
    asked = [i for i, is_asked in enumerate(mask) if is_asked]
    with torch.enable_grad():
        for i in asked:  # a name of its own, as others may be made of it
            filled[i] = operands[i].view_as(operands[i])
        pairs = [(output, grad) for output, grad
                 in zip(definition(*filled), grads) if grad is not None]
        found = torch.autograd.grad(
            [output for output, _ in pairs], [filled[i] for i in asked],
            [grad for _, grad in pairs], create_graph=True, allow_unused=True)
    result = [None] * len(mask)
    for i, gradient in zip(asked, found):
        result[i] = gradient
    return result


# --- einsum_linear -----------------------------------------------------------

def _check_cores(op: str, a: Tensor, b: Tensor, dims: Sequence[int]) -> None:
    for dim in dims:
        torch._check(a.shape[dim] == b.shape[dim], lambda: (
            f"[{op}] expected cores of equal gamma, phi and rho; got core_a of "
            f"size {tuple(a.shape)} and core_b of size {tuple(b.shape)}"))


def _check_width(op: str, x: Tensor, d_in) -> None:
    torch._check(x.shape[-1] == d_in, lambda: (
        f"[{op}] expected x of size (..., {d_in}); got {tuple(x.shape)}"))


def _check_bias(op: str, name: str, bias: Optional[Tensor], d_out) -> None:
    if bias is not None:
        torch._check(
            bias.dim() == 1 and bias.shape[0] == d_out,
            lambda: f"[{op}] expected {name} of size ({d_out}); got "
                    f"{tuple(bias.shape)}")


@_fake("einsum_linear")
def _(x, core_a, core_b, bias=None):
    op = "einsum_linear"
    torch._check(
        x.dim() >= 1 and core_a.dim() == 5 and core_b.dim() == 5,
        lambda: f"[{op}] expected x of size (..., d_in) and cores of five "
                "dimensions (in, gamma, out, phi, rho); got "
                f"{x.dim()}, {core_a.dim()} and {core_b.dim()} dimensions")
    _check_cores(op, core_a, core_b, (1, 3, 4))
    alpha, gamma, delta, phi, _ = core_a.shape
    _check_width(op, x, alpha * core_b.shape[0] * gamma)
    d_out = delta * core_b.shape[2] * phi
    _check_bias(op, "bias", bias, d_out)
    return x.new_empty((*x.shape[:-1], d_out))


@_fake("einsum_linear_backward")
def _(grad, x, core_a, core_b, output_mask):
    return (_contiguous(output_mask[0], x),
            _asked(output_mask[1], core_a, x),
            _asked(output_mask[2], core_b, x),
            x.new_empty(grad.shape[-1]) if output_mask[3] else x.new_empty(0))


class _EinsumLinearBackward(_Operator):
    """Gradients of a map that is linear in x, in A and in B.

    So are they in dy and the two others, and their own gradients are sums of
    the same two operators.
    """

    op = ops.einsum_linear_backward.default

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.mask = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx, *tangents):
        operands = ctx.saved_tensors
        found = [operand.new_zeros(operand.shape if asked else (0,))
                 for operand, asked in zip(operands[1:], ctx.mask)]
        found.append(operands[0].new_zeros(
            operands[0].shape[-1] if ctx.mask[3] else 0))
        for index, tangent in enumerate(tangents[:4]):
            # Of dy on all, of x, A and B on the others' gradients.
            mask = [asked and (index == 0 or (i != index - 1 and i < 3))
                    for i, asked in enumerate(ctx.mask)]
            if tangent is not None and any(mask):
                moved = [*operands]
                moved[index] = tangent
                terms = einsum_linear_backward(*moved, mask)
                found = [value + term if asked else value for value, term, asked
                         in zip(found, terms, mask)]
        return tuple(found)

    @staticmethod
    def backward(ctx, of_x, of_a, of_b, of_bias):
        dy, x, a, b = ctx.saved_tensors
        terms: list[list[Tensor]] = [[], [], [], []]  # of dy, x, A, B

        def add(index, x, a, b):
            """Of the map's value or one of its gradients, for these operands."""
            if ctx.needs_input_grad[index]:
                if index == 0:
                    terms[0].append(einsum_linear(x, a, b))
                else:
                    mask = [i == index for i in (1, 2, 3, 4)]
                    terms[index].append(
                        einsum_linear_backward(dy, x, a, b, mask)[index - 1])

        for given, index, operands in (
                (of_x, 1, (of_x, a, b)), (of_a, 2, (x, of_a, b)),
                (of_b, 3, (x, a, of_b))):
            if given is not None and ctx.mask[index - 1]:
                for other in range(4):
                    if other != index:
                        add(other, *operands)
        if (of_bias is not None and ctx.mask[3] and ctx.needs_input_grad[0]):
            terms[0].append(of_bias.expand_as(dy))
        return (*(sum(some) if some else None for some in terms), None)


einsum_linear_backward = _register(_EinsumLinearBackward)


class _EinsumLinear(_Operator):
    """Saves x and both cores; the intermediate is computed again."""

    op = ops.einsum_linear.default

    @staticmethod
    def filled(x, core_a, core_b, bias=None):
        return x, core_a, core_b, bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, a, b, bias = inputs
        ctx.save_for_backward(x, a, b)
        ctx.save_for_forward(x, a, b)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx, *tangents):
        operands = ctx.saved_tensors
        terms = []
        for index, tangent in enumerate(tangents[:3]):
            if tangent is not None:
                moved = [*operands]
                moved[index] = tangent
                terms.append(einsum_linear(*moved, None))
        if tangents[3] is not None:
            terms.append(tangents[3].expand(*operands[0].shape[:-1], -1))
        return sum(terms)

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return None, None, None, None
        mask = list(ctx.needs_input_grad)
        return tuple(_masked(
            mask, einsum_linear_backward(grad, *ctx.saved_tensors, mask)))

    @staticmethod
    def vmap(info, in_dims, x, a, b, bias):
        if in_dims[1:] == (None, None, None):
            return einsum_linear(x.movedim(in_dims[0], 0), a, b, bias), 0
        return _loop(einsum_linear, info, in_dims, (x, a, b, bias))

    @classmethod
    def kernel(cls, x, core_a, core_b, bias=None):
        if not _FORCED:
            matrices = _low_rank(x, core_a, core_b, bias)
            if matrices is not None:
                if _LOGGING:
                    print("einforge: einsum_linear of low rank: two_linears",
                          file=sys.stderr)
                linear = torch.nn.functional.linear
                return linear(linear(x, matrices[0].t()), matrices[1], bias)
        return super().kernel(x, core_a, core_b, bias)


_FORCED = os.environ.get("EINFORGE_KERNEL", "")
_LOGGING = os.environ.get("EINFORGE_LOG_KERNELS", "") == "1"


def _low_rank(x, core_a, core_b, bias):
    """(d_in, rho) and (d_out, rho) of a layer of low rank, else None.

    Two linear layers, which torch differentiates: keeping the intermediate,
    which is small, costs less than computing it again. None for operands that
    do not fit: of those the operator says what is wrong.
    """
    others = [core_a, core_b] + ([] if bias is None else [bias])
    if (x.dim() < 1 or core_a.dim() != 5 or core_b.dim() != 5
            or not x.is_floating_point()
            or any(t.dtype != x.dtype or t.device != x.device for t in others)):
        return None
    for first, second in ((core_a, core_b), (core_b, core_a)):
        d_in, gamma, out, phi, rho = first.shape
        one, _, d_out, _, rank = second.shape
        if (gamma == out == phi == one == 1 and second.shape[1] == 1
                and second.shape[3] == 1 and d_in == x.shape[-1]
                and rho == rank
                and (bias is None or tuple(bias.shape) == (d_out,))):
            return (first.squeeze((1, 2, 3)), second.squeeze((0, 1, 3)))
    return None


einsum_linear = _register(_EinsumLinear)


def _macs(a, b) -> int:
    """For one vector, of two cores' shapes, the experts' dimension aside."""
    if _count(b[-5:]) == 1:  # a factor of 1 beside a dense matrix
        return _count(a[-5:])
    # alpha, beta, gamma, delta, epsilon, phi, rho
    return ops.core_macs([a[-5], b[-5], a[-4], a[-3], b[-3], a[-2], a[-1]])


def _count(shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


@register_flop_formula(ops.einsum_linear)
def _(x, core_a, core_b, *rest, out_shape=None, **_kwargs) -> int:
    return 2 * _count(x[:-1]) * _macs(core_a, core_b)


@register_flop_formula(ops.einsum_linear_backward)
def _(grad, x, core_a, core_b, mask, *rest, out_shape=None, **_kwargs) -> int:
    """As much as forward for each operand whose gradient is asked for."""
    macs = _macs(core_a, core_b)
    return 2 * _count(x[:-1]) * macs * _products(mask[0], mask[1] or mask[2])


def _products(of_x: bool, of_cores: bool) -> int:
    """Forward passes that a backward pass is worth."""
    return int(of_x) + int(of_cores)


# --- ffn ---------------------------------------------------------------------

def _ffn_layers(x, in_a, in_b, in_bias, out_a, out_b, out_bias):
    """The definition, which a compiler sees into."""
    hidden = einsum_linear(x, in_a, in_b, in_bias)
    return einsum_linear(
        torch.nn.functional.gelu(hidden, approximate="tanh"),
        out_a, out_b, out_bias)


@_fake("ffn")
def _(x, in_a, in_b, in_bias, out_a, out_b, out_bias, fused=None):
    hidden = ops.einsum_linear(x, in_a, in_b, in_bias)
    return ops.einsum_linear(hidden, out_a, out_b, out_bias)


@_fake("ffn_backward")
def _(grad, x, in_a, in_b, in_bias, out_a, out_b, mask):
    return (_contiguous(mask[0], x),
            _asked(mask[1], in_a, x),
            _asked(mask[2], in_b, x),
            x.new_empty(
                in_a.shape[2] * in_b.shape[2] * in_a.shape[3] if mask[3] else 0),
            _asked(mask[4], out_a, x),
            _asked(mask[5], out_b, x),
            x.new_empty(grad.shape[-1] if mask[6] else 0))


class _Ffn(_Operator):
    """Saves x and what is learned; the hidden features are computed again."""

    op = ops.ffn.default

    @staticmethod
    def filled(x, in_a, in_b, in_bias, out_a, out_b, out_bias, fused=None):
        return x, in_a, in_b, in_bias, out_a, out_b, out_bias, fused

    @classmethod
    def kernel(cls, *args, **kwargs):
        *operands, fused = cls.filled(*args, **kwargs)
        if not fused or _forward_mode():
            return _ffn_layers(*operands)
        return super().kernel(*operands, fused)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:7])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 8
        mask = list(ctx.needs_input_grad[:7])
        if torch.is_grad_enabled():
            found = _by_definition(
                lambda *operands: (_ffn_layers(*operands),),
                ctx.saved_tensors, mask, (grad,))
        else:
            found = _masked(
                mask, ops.ffn_backward(grad, *ctx.saved_tensors[:6], mask))
        return *found, None


_register(_Ffn)


def ffn(*args):
    # Transforms of torch.func are those of the layers.
    if _transformed():
        return _ffn_layers(*args[:7])
    return ops.ffn(*args)


@register_flop_formula(ops.ffn)
def _(x, in_a, in_b, in_bias, out_a, out_b, *rest, out_shape=None,
      **_kwargs) -> int:
    return 2 * _count(x[:-1]) * (_macs(in_a, in_b) + _macs(out_a, out_b))


@register_flop_formula(ops.ffn_backward)
def _(grad, x, in_a, in_b, in_bias, out_a, out_b, mask, *rest, out_shape=None,
      **_kwargs) -> int:
    """As the layers' backward; what is computed again is not counted."""
    first, second = _macs(in_a, in_b), _macs(out_a, out_b)
    return 2 * _count(x[:-1]) * (
        first * _products(mask[0], mask[1] or mask[2])
        + second * _products(any(mask[:4]), mask[4] or mask[5]))


# --- rms_cap -----------------------------------------------------------------

def _rms_cap_definition(core, gain, max_rms, dtype):
    wide = core.double()
    capped = wide / (wide.square().mean().sqrt() / max_rms).clamp_min(1)
    if gain is not None:
        capped = capped * gain.double().reshape(())
    return (capped.to(core.dtype if dtype is None else dtype),)


@_fake("rms_cap")
def _(core, gain, max_rms, dtype=None):
    return torch.empty_like(core, dtype=dtype or core.dtype)


@_fake("rms_cap_backward")
def _(grad, core, gain, max_rms):
    return (torch.empty_like(core),
            core.new_empty(0) if gain is None else torch.empty_like(gain))


class _RmsCap(_Operator):
    op = ops.rms_cap.default

    @staticmethod
    def definition(*args):
        return _rms_cap_definition(*args)[0]

    @staticmethod
    def filled(core, gain, max_rms, dtype=None):
        return core, gain, max_rms, dtype

    @staticmethod
    def setup_context(ctx, inputs, output):
        core, gain, ctx.max_rms, ctx.dtype = inputs
        ctx.save_for_backward(core, gain)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return None, None, None, None
        core, gain = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:2])
        if torch.is_grad_enabled():
            found = _by_definition(
                lambda core, gain: _rms_cap_definition(
                    core, gain, ctx.max_rms, ctx.dtype),
                (core, gain), mask, (grad,))
        else:
            found = _masked(
                mask, ops.rms_cap_backward(grad, core, gain, ctx.max_rms))
        return *found, None, None


rms_cap = _register(_RmsCap)


# --- btt_moe_linear ----------------------------------------------------------

def _mixture_definition(x, core_a, core_b, experts, gates):
    """Every expert for all tokens: for second derivatives alone."""
    rows = x.reshape(-1, x.shape[-1])
    y = 0.0
    for e in range(core_a.shape[0]):
        gate = ((experts == e) * gates).sum(1, keepdim=True).to(x.dtype)
        y = y + gate * einsum_linear(rows, core_a[e], core_b[e], None)
    return (y.reshape(*x.shape[:-1], -1),)


@_fake("btt_moe_linear")
def _(x, core_a, core_b, experts, gates):
    op = "btt_moe_linear"
    torch._check(
        x.dim() >= 1 and core_a.dim() == 6 and core_b.dim() == 6
        and experts.dim() == 2 and gates.dim() == 2,
        lambda: f"[{op}] expected x of size (..., d_in), cores of six "
                "dimensions (experts, in, gamma, out, phi, rho), experts and "
                f"gates of two; got {x.dim()}, {core_a.dim()}, {core_b.dim()}, "
                f"{experts.dim()} and {gates.dim()} dimensions")
    _check_cores(op, core_a, core_b, (0, 2, 4, 5))
    _, alpha, gamma, delta, phi, _ = core_a.shape
    _check_width(op, x, alpha * core_b.shape[1] * gamma)
    return x.new_empty((*x.shape[:-1], delta * core_b.shape[3] * phi))


@_fake("btt_moe_linear_backward")
def _(grad, x, core_a, core_b, experts, gates, output_mask):
    return (_contiguous(output_mask[0], x), _asked(output_mask[1], core_a, x),
            _asked(output_mask[2], core_b, x),
            _contiguous(output_mask[3], gates))


class _BttMoeLinear(_Operator):
    """Saves the operands; all products are computed again."""

    op = ops.btt_moe_linear.default

    @staticmethod
    def definition(*args):
        return _mixture_definition(*args)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        if grad is None:
            return (None,) * 5
        saved = ctx.saved_tensors
        needs = list(ctx.needs_input_grad)
        if torch.is_grad_enabled():
            return tuple(_by_definition(
                _mixture_definition, saved, needs, (grad,)))
        mask = [*needs[:3], needs[4]]
        x, a, b, gates = _masked(
            mask, ops.btt_moe_linear_backward(grad, *saved, mask))
        return x, a, b, None, gates


btt_moe_linear = _register(_BttMoeLinear)


@register_flop_formula(ops.btt_moe_linear)
def _(x, core_a, core_b, experts, *rest, out_shape=None, **_kwargs) -> int:
    return 2 * _count(experts) * _macs(core_a, core_b)


@register_flop_formula(ops.btt_moe_linear_backward)
def _(grad, x, core_a, core_b, experts, gates, mask, *rest, out_shape=None,
      **_kwargs) -> int:
    macs = _macs(core_a, core_b)
    return 2 * _count(experts) * macs * _products(
        mask[0] or mask[3], mask[1] or mask[2])


# --- btt_moe_routed ----------------------------------------------------------

def _gates_of_all(
    softmax_first: Optional[bool], active: int, experts: int
) -> bool:
    """Whether gates are shares of all experts, as the library decides."""
    torch._check(
        1 <= active <= experts,
        lambda: f"[moe_route] expected active in 1 to {experts} experts; got "
                f"{active}")
    one_of_several = bool(active == 1 and experts > 1)
    torch._check(
        softmax_first is not False or not one_of_several,
        lambda: "[moe_route] expected softmax_first with 1 active expert, "
                "since a softmax over it alone is 1 and gives the router no "
                "gradient; got false")
    return one_of_several if softmax_first is None else softmax_first


def _route(x, router, bias, active, softmax_first):
    """The scores, the experts that they choose and their gates."""
    logits = x.reshape(-1, router.shape[1]).to(router.dtype) @ router.t()
    scores = logits.detach() if bias is None else logits.detach() + bias
    experts = scores.sort(
        dim=-1, descending=True, stable=True).indices[:, :active]
    gates = (logits.softmax(-1).gather(-1, experts)
             if _gates_of_all(softmax_first, active, router.shape[0])
             else logits.gather(-1, experts).softmax(-1))
    return logits, experts.to(torch.int32), gates


def _routed_definition(
    x, router, core_a, core_b, output_bias, bias, active, softmax_first
):
    logits, experts, gates = _route(x, router, bias, active, softmax_first)
    y = btt_moe_linear(x, core_a, core_b, experts, gates)
    if output_bias is not None:
        y = y + output_bias.to(y.dtype)
    return y, logits, experts, gates


@_fake("btt_moe_routed")
def _(x, router, core_a, core_b, active, softmax_first=None, bias=None,
      output_bias=None):
    op = "btt_moe_routed"
    torch._check(
        x.dim() >= 1 and router.dim() == 2 and core_a.dim() == 6
        and core_b.dim() == 6,
        lambda: f"[{op}] expected x of size (..., d_in), router of two "
                "dimensions and cores of six (experts, in, gamma, out, phi, "
                f"rho); got {x.dim()}, {router.dim()}, {core_a.dim()} and "
                f"{core_b.dim()} dimensions")
    experts, alpha, gamma, delta, phi, _ = core_a.shape
    _check_width(op, x, alpha * core_b.shape[1] * gamma)
    torch._check(router.shape[0] == experts, lambda: (
        f"[{op}] expected router of size ({experts}, d_in), a row for each "
        f"expert; got {tuple(router.shape)}"))
    d_out = delta * core_b.shape[3] * phi
    _check_bias(op, "output_bias", output_bias, d_out)
    tokens = _count(x.shape[:-1])
    return (x.new_empty((*x.shape[:-1], d_out)),
            router.new_empty((tokens, experts)),
            router.new_empty((tokens, active), dtype=torch.int32),
            router.new_empty((tokens, active)))


@_fake("btt_moe_routed_backward")
def _(grad_y, grad_logits, grad_gates, x, router, core_a, core_b, output_bias,
      logits, experts, gates, softmax_first, output_mask):
    return (_contiguous(output_mask[0], x),
            _contiguous(output_mask[1], router),
            _asked(output_mask[2], core_a),
            _asked(output_mask[3], core_b),
            _contiguous(output_mask[4], x if output_bias is None
                        else output_bias))


class _BttMoeRouted(_Operator):
    """Saves the operands, the scores and the choice, and no intermediate."""

    op = ops.btt_moe_routed.default

    @staticmethod
    def definition(x, router, core_a, core_b, active, softmax_first, bias,
                   output_bias):
        return _routed_definition(
            x, router, core_a, core_b, output_bias, bias, active, softmax_first)

    @staticmethod
    def filled(x, router, core_a, core_b, active, softmax_first=None, bias=None,
               output_bias=None):
        return (x, router, core_a, core_b, active, softmax_first, bias,
                output_bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x, router, a, b, ctx.active, softmax_first, bias,
         output_bias) = inputs
        _, logits, experts, gates = output
        ctx.softmax_first = _gates_of_all(
            softmax_first, ctx.active, router.shape[0])
        ctx.mark_non_differentiable(experts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            x, router, a, b, output_bias, bias, logits, experts, gates)

    @staticmethod
    def backward(ctx, of_y, of_logits, _, of_gates):
        *operands, bias, logits, experts, gates = ctx.saved_tensors
        needs = ctx.needs_input_grad
        mask = [*needs[:4], needs[7]]
        grads = (of_y, of_logits, None, of_gates)
        if all(grad is None for grad in grads):
            found = [None] * 5
        elif torch.is_grad_enabled():
            found = _by_definition(
                lambda *operands: _routed_definition(
                    *operands, bias, ctx.active, ctx.softmax_first),
                operands, mask, grads)
        else:
            found = _masked(mask, ops.btt_moe_routed_backward(
                of_y, of_logits, of_gates, *operands, logits, experts, gates,
                ctx.softmax_first, mask))
        return *found[:4], None, None, None, found[4]


btt_moe_routed = _register(_BttMoeRouted)


def _routed_flops(x, router, core_a, core_b, active) -> tuple[int, int]:
    """Of the experts and of the router, forward."""
    tokens = _count(x[:-1])
    return (2 * tokens * active * _macs(core_a, core_b),
            2 * tokens * _count(router))


@register_flop_formula(ops.btt_moe_routed)
def _(x, router, core_a, core_b, active, *rest, out_shape=None,
      **_kwargs) -> int:
    return sum(_routed_flops(x, router, core_a, core_b, active))


@register_flop_formula(ops.btt_moe_routed_backward)
def _(grad_y, grad_logits, grad_gates, x, router, core_a, core_b, output_bias,
      logits, experts, gates, softmax_first, mask, *rest, out_shape=None,
      **_kwargs) -> int:
    layer, scores = _routed_flops(x, router, core_a, core_b, experts[1])
    return (layer * _products(mask[0] or mask[1], mask[2] or mask[3])
            + scores * _products(mask[0], mask[1]))


# --- moe_router_loss ---------------------------------------------------------

def _router_loss_definition(logits, counts, balance_weight, z_weight):
    share = counts.to(logits.dtype)
    balance = (logits.softmax(-1).mean(0) * (share / share.sum())).sum()
    return (balance_weight * logits.shape[1] * balance
            + z_weight * logits.logsumexp(-1).square().mean(),)


@_fake("moe_router_loss")
def _(logits, experts, balance_weight, z_weight):
    torch._check(
        logits.dim() == 2 and experts.dim() == 2,
        lambda: "[moe_router_loss] expected logits of size (tokens, experts) "
                "and experts of size (tokens, active); got "
                f"{logits.dim()} and {experts.dim()} dimensions")
    return (logits.new_empty(()),
            experts.new_empty(logits.shape[1], dtype=torch.int64))


@_fake("moe_router_loss_backward")
def _(grad, logits, counts, balance_weight, z_weight):
    return logits.new_empty(logits.shape)


class _MoeRouterLoss(_Operator):
    op = ops.moe_router_loss.default

    @staticmethod
    def definition(logits, experts, balance_weight, z_weight):
        every = torch.arange(logits.shape[1], device=logits.device)
        counts = (experts.unsqueeze(-1) == every).sum((0, 1))
        if logits.shape[0] == 0:
            return logits.sum(), counts
        return (*_router_loss_definition(
            logits, counts, balance_weight, z_weight), counts)

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, _, ctx.balance_weight, ctx.z_weight = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, output[1])

    @staticmethod
    def backward(ctx, grad, _):
        if grad is None:
            return None, None, None, None
        logits, counts = ctx.saved_tensors
        if torch.is_grad_enabled() and logits.shape[0] > 0:
            found, = _by_definition(
                lambda logits: _router_loss_definition(
                    logits, counts, ctx.balance_weight, ctx.z_weight),
                (logits,), [True], (grad,))
        else:
            found = ops.moe_router_loss_backward(
                grad, logits, counts, ctx.balance_weight, ctx.z_weight)
        return found, None, None, None


moe_router_loss = _register(_MoeRouterLoss)


# --- autocast ----------------------------------------------------------------

def _autocast(device: str, key: str) -> None:
    """Each operator under autocast, as the rules of its C++ header say."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(tensor):
        if (tensor is None or not tensor.is_floating_point()
                or tensor.dtype == torch.float64
                or tensor.device.type != device):
            return tensor
        return tensor.to(torch.get_autocast_dtype(device))

    def register(name):
        def add(rule):
            def kernel(*args, **kwargs):
                with torch._C._ExcludeDispatchKeyGuard(excluded):
                    return rule(*args, **kwargs)
            _library.impl(name, kernel, key)
            return rule
        return add

    @register("einsum_linear")
    def _(x, core_a, core_b, bias=None):
        return ops.einsum_linear(
            cast(x), cast(core_a), cast(core_b), cast(bias))

    @register("ffn")
    def _(*args, **kwargs):
        *operands, fused = _Ffn.filled(*args, **kwargs)
        return ops.ffn(*map(cast, operands), fused)

    @register("rms_cap")
    def _(core, gain, max_rms, dtype=None):
        """The mean square is that of the core as it is, rounded once."""
        if dtype is None and core.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        return ops.rms_cap(core, gain, max_rms, dtype)

    @register("btt_moe_linear")
    def _(x, core_a, core_b, experts, gates):
        """The gates stay as wide as they come."""
        return ops.btt_moe_linear(
            cast(x), cast(core_a), cast(core_b), experts, gates)

    @register("btt_moe_routed")
    def _(x, router, core_a, core_b, active, softmax_first=None, bias=None,
          output_bias=None):
        """The router sees x as it is."""
        seen, a, b = cast(x), cast(core_a), cast(core_b)
        if seen.dtype == x.dtype:
            return ops.btt_moe_routed(
                x, router, a, b, active, softmax_first, bias, output_bias)
        logits, experts, gates = _route(
            x, router, bias, active, softmax_first)
        y = ops.btt_moe_linear(seen, a, b, experts, gates)
        if output_bias is not None:
            y = y + output_bias.to(y.dtype)
        return y, logits, experts, gates


_autocast("cpu", "AutocastCPU")
_autocast("cuda", "AutocastCUDA")
