"""The operators as documented functions."""

from typing import Optional

import torch
from torch import Tensor


def einsum_linear(
    x: Tensor, core_a: Tensor, core_b: Tensor, bias: Optional[Tensor] = None
) -> Tensor:
    """The two-core einsum layer of arXiv 2410.02117, equation 3:

        y[..,d,e,f] = sum_{a,b,g,r} B[b,g,e,f,r] A[a,g,d,f,r] x[..,a,b,g] + bias

    Args:
        x: (..., d_in), float32, float64 or bfloat16 (float16 on CUDA), its
            features in the order (alpha, beta, gamma).
        core_a: (n_alpha, n_gamma, n_delta, n_phi, n_rho), the dtype of x.
        core_b: (n_beta, n_gamma, n_epsilon, n_phi, n_rho), the dtype of x.
        bias: (d_out), or None.

    Returns:
        (..., d_out), its features in the order (delta, epsilon, phi).

    Raises:
        RuntimeError: a shape, dtype or device does not fit.

    Differentiable, twice too; saves x and the cores, no intermediate. Runs in
    autocast's dtype and under torch.compile. EINFORGE_KERNEL=name forces a
    kernel, EINFORGE_LOG_KERNELS=1 prints which one ran.
    """
    return torch.ops.einforge.einsum_linear(x, core_a, core_b, bias)


def rms_cap(core: Tensor, gamma: Optional[Tensor], max_rms: float) -> Tensor:
    """gamma * core / max(1, rms(core) / max_rms), shaped like core.

    Args:
        core: any shape.
        gamma: one element, or None for 1.
        max_rms: above 0.

    Raises:
        RuntimeError: max_rms is not positive, or gamma not one element.
    """
    return torch.ops.einforge.rms_cap(core, gamma, max_rms)
