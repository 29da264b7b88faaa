"""A structured layer as a module."""

import torch
from torch import Tensor, nn

from einforge.functional import einsum_linear, rms_cap
from einforge.structure import Sizes


class EinsumLinear(nn.Module):
    """A linear layer of a structure, with cores capped in RMS.

    Follows the parametrisation of arXiv 2410.02117, section 5: each core starts
    with, and is capped at, std = sqrt(min(d_in, d_out)) / d_in of itself as a
    batched matmul in the cheaper contraction order, and has a learned gain.
    Gains have size (1), so that FSDP2 can shard them.
    """

    def __init__(self, sizes: Sizes, bias: bool = True):
        super().__init__()
        s = self.sizes = Sizes(*sizes)
        self.std_a, self.std_b = torch.ops.einforge.core_init_std(list(s))
        self.core_a = nn.Parameter(torch.randn(s.core_a) * self.std_a)
        self.core_b = nn.Parameter(torch.randn(s.core_b) * self.std_b)
        self.gain_a = nn.Parameter(torch.ones(1))
        self.gain_b = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(s.d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return einsum_linear(
            x,
            rms_cap(self.core_a, self.gain_a, self.std_a),
            rms_cap(self.core_b, self.gain_b, self.std_b),
            self.bias,
        )

    def extra_repr(self) -> str:
        return f"{self.sizes.d_in} -> {self.sizes.d_out}, {self.sizes}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        adopt_old_gains(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def adopt_old_gains(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Renames the gains of older files in place: gamma_a and gamma_b once,
    and scalars."""
    for gain, old in (("gain_a", "gamma_a"), ("gain_b", "gamma_b")):
        if prefix + old in state_dict:
            state_dict[prefix + gain] = state_dict.pop(prefix + old)
        value = state_dict.get(prefix + gain)
        if value is not None and value.dim() == 0:
            state_dict[prefix + gain] = value.reshape(1)
