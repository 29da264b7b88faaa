"""Structured linear layers for PyTorch, on einforge's own kernels.

    import einforge, torch
    layer = einforge.EinsumLinear(einforge.Sizes(alpha=32, gamma=32,
                                                 epsilon=32, phi=32))
    y = layer(torch.randn(8, 1024))

The operators are also torch.ops.einforge.einsum_linear and .rms_cap.
"""

from einforge._library import load

load()

from einforge.functional import einsum_linear, rms_cap  # noqa: E402
from einforge.module import EinsumLinear, Sizes  # noqa: E402

__all__ = ["EinsumLinear", "Sizes", "einsum_linear", "rms_cap"]
