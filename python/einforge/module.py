"""A structured layer as a module."""

import math
import torch
from torch import Tensor, nn

from einforge.functional import einsum_linear, rms_cap
from einforge.structure import Sizes


class EinsumLinear(nn.Module):
    """A linear layer of a structure, with cores capped in RMS.

    Follows the parametrisation of arXiv 2410.02117, section 5: each core starts
    with, and is capped at, std = sqrt(min(d_in, d_out)) / d_in of itself as a
    batched matmul in contraction order AB, and has a learned scalar gain.
    """

    def __init__(self, sizes: Sizes, bias: bool = True):
        super().__init__()
        s = self.sizes = Sizes(*sizes)
        self.std_a = _std(s.alpha, s.delta * s.phi * s.rho)
        self.std_b = _std(s.beta * s.gamma * s.rho, s.epsilon)
        self.core_a = nn.Parameter(
            torch.randn(s.alpha, s.gamma, s.delta, s.phi, s.rho) * self.std_a
        )
        self.core_b = nn.Parameter(
            torch.randn(s.beta, s.gamma, s.epsilon, s.phi, s.rho) * self.std_b
        )
        self.gamma_a = nn.Parameter(torch.ones(()))
        self.gamma_b = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(s.d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return einsum_linear(
            x,
            rms_cap(self.core_a, self.gamma_a, self.std_a),
            rms_cap(self.core_b, self.gamma_b, self.std_b),
            self.bias,
        )

    def extra_repr(self) -> str:
        return f"{self.sizes.d_in} -> {self.sizes.d_out}, {self.sizes}"


def _std(d_in: int, d_out: int) -> float:
    return math.sqrt(min(d_in, d_out)) / d_in
