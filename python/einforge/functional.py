"""The operators as documented functions."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from einforge import _operators


def einsum_linear(
    x: Tensor, core_a: Tensor, core_b: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """The two-core einsum layer of arXiv 2410.02117, equation 3:

        y[..,d,e,f] = sum_{a,b,g,r} B[b,g,e,f,r] A[a,g,d,f,r] x[..,a,b,g] + bias

    Args:
        x: (..., d_in), of a floating-point dtype, its features in the order
            (alpha, beta, gamma).
        core_a: (n_alpha, n_gamma, n_delta, n_phi, n_rho), the dtype of x.
        core_b: (n_beta, n_gamma, n_epsilon, n_phi, n_rho), the dtype of x.
        bias: (d_out), or None.

    Returns:
        (..., d_out), its features in the order (delta, epsilon, phi).

    Raises:
        RuntimeError: a shape, dtype or device does not fit.

    Differentiable any number of times, in reverse and forward mode; saves x and
    the cores, no intermediate. Runs in autocast's dtype, under torch.compile and under torch.func's
    transforms. EINFORGE_KERNEL=name forces a kernel, EINFORGE_LOG_KERNELS=1
    prints which one ran. FLOPs: 2 torch.ops.einforge.core_macs(sizes) a row of
    x; backward twice that, and the first contraction once more.
    """
    return _operators.einsum_linear(x, core_a, core_b, bias)


def ffn(
    x: Tensor,
    in_a: Tensor,
    in_b: Tensor,
    in_bias: Optional[Tensor],
    out_a: Tensor,
    out_b: Tensor,
    out_bias: Optional[Tensor],
    fused: Optional[bool] = None,
) -> Tensor:
    """A feed-forward network of two einsum layers, with the GELU between:

        einsum_linear(gelu(einsum_linear(x, in_a, in_b, in_bias)), out_a, ...)

    Args:
        x, in_a, in_b, in_bias, out_a, out_b, out_bias: as in einsum_linear, of
            one dtype; the d_in of the second layer is the d_out of the first.
        fused: True: one operator, which keeps its arguments alone for backward
            and computes the hidden features again there. False or None: the
            layers one after the other, which keep the hidden features twice.

    Returns:
        (..., d_out) of the second layer.

    Raises:
        RuntimeError: a shape, dtype or device does not fit.

    GELU is its tanh form: 0.5 v (1 + tanh(sqrt(2 / pi) (v + 0.044715 v^3))),
    at most 5e-4 from the exact one. Differentiable any number of times. Source:
    arXiv 1606.08415.
    """
    return _operators.ffn(
        x, in_a, in_b, in_bias, out_a, out_b, out_bias, fused)


def rms_cap(core: Tensor, gain: Optional[Tensor], max_rms: float) -> Tensor:
    """gain * core / max(1, rms(core) / max_rms), shaped like core.

    Args:
        core: any shape.
        gain: one element, or None for 1.
        max_rms: above 0.

    Raises:
        RuntimeError: max_rms is not positive, or gain not one element.

    Under autocast the result has its dtype. Source: arXiv 2410.02117, section
    5.
    """
    return _operators.rms_cap(core, gain, max_rms, None)


def btt_moe_linear(
    x: Tensor, core_a: Tensor, core_b: Tensor, experts: Tensor, gates: Tensor
) -> Tensor:
    """A mixture of einsum layers that computes only those chosen:

        y[t] = sum_j gates[t,j] einsum_linear(x[t], core_a[e], core_b[e]),
               e = experts[t,j]

    Args:
        x: (..., d_in), of a floating-point dtype; its leading dimensions make
            T tokens.
        core_a: (E, n_alpha, n_gamma, n_delta, n_phi, n_rho), the dtype of x.
        core_b: (E, n_beta, n_gamma, n_epsilon, n_phi, n_rho), the dtype of x.
        experts: (T, k), int32 or int64, in [0, E), distinct in a row; on CUDA
            the values are not checked.
        gates: (T, k), float32 (float64 where x is).

    Returns:
        (..., d_out), the dtype of x. No token is dropped.

    Raises:
        RuntimeError: a shape, dtype or device does not fit.

    Differentiable in all but the experts; second derivatives, and transforms of
    torch.func, compute every expert for all tokens. Source: arXiv 2410.02117,
    section 6.
    """
    return _operators.btt_moe_linear(x, core_a, core_b, experts, gates)


class RoutedMixture(NamedTuple):
    """What btt_moe_routed returns for T tokens, E experts and k active."""

    y: Tensor  # (..., d_out), the dtype of x
    logits: Tensor  # (T, E), the dtype of the router; for losses
    experts: Tensor  # (T, k)
    gates: Tensor  # (T, k)


def btt_moe_routed(
    x: Tensor,
    router: Tensor,
    core_a: Tensor,
    core_b: Tensor,
    active: int,
    softmax_first: Optional[bool] = None,
    bias: Optional[Tensor] = None,
    output_bias: Optional[Tensor] = None,
) -> RoutedMixture:
    """btt_moe_linear with its router: logits, the `active` best, their softmax.

    Args:
        x, core_a, core_b: as in btt_moe_linear.
        router: (E, d_in), float32 (float64 where x is).
        active: experts of a token, 1 to E.
        softmax_first: gates are the softmax over all experts, not over those
            chosen. None: True with one active expert of several, whose
            softmax over itself would be 1 and give the router no gradient,
            else False.
        bias: (E), added to the logits for the choice alone, or None.
        output_bias: (d_out), added to y, or None.

    Raises:
        RuntimeError: a shape, dtype or device does not fit, or softmax_first
            is False with one active expert of several.

    Differentiable in x, router, cores and output_bias, by y, logits and gates.
    """
    return RoutedMixture(*_operators.btt_moe_routed(
        x, router, core_a, core_b, active, softmax_first, bias, output_bias))


class RouterLoss(NamedTuple):
    """What moe_router_loss returns for E experts."""

    loss: Tensor  # no dimensions
    load: Tensor  # (E) int64: assignments of each expert


def moe_router_loss(
    logits: Tensor,
    experts: Tensor,
    balance_weight: float = 0.01,
    z_weight: float = 0.001,
) -> RouterLoss:
    """The loss that keeps a router's load even and its scores small:

        balance_weight E sum_i(p_i f_i) + z_weight mean(logsumexp(logits)^2)

    with p_i the mean over tokens of softmax(logits)_i and f_i the share of
    assignments that expert i has; 0 of no tokens.

    Args:
        logits: (T, E), float32 or float64.
        experts: (T, k), int32 or int64, that the tokens take.
        balance_weight, z_weight: of the two terms.

    Raises:
        RuntimeError: a shape, dtype or device does not fit.

    Differentiable in the logits. Source: arXiv 2101.03961, section 2.2 (load);
    arXiv 2202.08906, section 3.1 (z-loss).
    """
    return RouterLoss(*_operators.moe_router_loss(
        logits, experts, balance_weight, z_weight))
