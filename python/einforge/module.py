"""A structured layer as a module."""

from typing import Optional, Union

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

    def __init__(
        self,
        sizes: Sizes,
        bias: bool = True,
        *,
        device: Optional[Union[torch.device, str]] = None,
        dtype: Optional[torch.dtype] = None,
    ):
        """Args:
            sizes: the seven integer sizes, alpha to rho.
            bias: whether y has a learned (d_out) added.
            device, dtype: of the parameters.

        Raises:
            ValueError: sizes are not seven whole numbers above 0.
        """
        super().__init__()
        s = self.sizes = _checked(sizes)
        self.std_a, self.std_b = torch.ops.einforge.core_init_std(list(s))
        factory = {"device": device, "dtype": dtype}
        self.core_a = nn.Parameter(torch.empty(s.core_a, **factory))
        self.core_b = nn.Parameter(torch.empty(s.core_b, **factory))
        self.gain_a = nn.Parameter(torch.empty(1, **factory))
        self.gain_b = nn.Parameter(torch.empty(1, **factory))
        self.register_parameter("bias", nn.Parameter(
            torch.empty(s.d_out, **factory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the initial values anew, as after init on the meta device."""
        nn.init.normal_(self.core_a, std=self.std_a)
        nn.init.normal_(self.core_b, std=self.std_b)
        nn.init.ones_(self.gain_a)
        nn.init.ones_(self.gain_b)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def cores(self) -> tuple[Tensor, Tensor]:
        """Both cores as the layer uses them: capped, times their gains."""
        return (rms_cap(self.core_a, self.gain_a, self.std_a),
                rms_cap(self.core_b, self.gain_b, self.std_b))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return einsum_linear(x, *self.cores(), self.bias)

    def extra_repr(self) -> str:
        return f"{self.sizes.d_in} -> {self.sizes.d_out}, {self.sizes}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        adopt_old_gains(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked(sizes: Sizes) -> Sizes:
    names = ", ".join(Sizes._fields)
    try:
        values = [int(size) for size in sizes]
        whole = all(value == size for value, size in zip(values, sizes))
    except (TypeError, ValueError):
        values, whole = [], False
    if not whole or len(values) != len(Sizes._fields):
        raise ValueError(
            f"[EinsumLinear] expected seven sizes ({names}); got {sizes!r}: for "
            "a structure at two widths there is einforge.nn.Linear(d_in, d_out, "
            "'monarch')")
    if min(values) < 1:
        raise ValueError(
            f"[EinsumLinear] expected sizes above 0 ({names}); got {values}")
    return Sizes(*values)


def adopt_old_gains(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Renames the gains of older files in place: gamma_a and gamma_b once,
    and scalars."""
    for gain, old in (("gain_a", "gamma_a"), ("gain_b", "gamma_b")):
        if prefix + old in state_dict:
            state_dict[prefix + gain] = state_dict.pop(prefix + old)
        value = state_dict.get(prefix + gain)
        if value is not None and value.dim() == 0:
            state_dict[prefix + gain] = value.reshape(1)
