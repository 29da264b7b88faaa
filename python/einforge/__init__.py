"""Structured linear layers for PyTorch, on einforge's own kernels.

    import einforge, torch
    layer = einforge.EinsumLinear(einforge.Sizes(alpha=32, gamma=32,
                                                 epsilon=32, phi=32))
    y = layer(torch.randn(8, 1024))

btt_moe_routed is a mixture of such layers with its router. The operators are
also torch.ops.einforge.einsum_linear and so on.
"""

from einforge._library import load

load()

from einforge.functional import (  # noqa: E402
    RoutedMixture,
    btt_moe_linear,
    btt_moe_routed,
    einsum_linear,
    rms_cap,
)
from einforge.module import EinsumLinear, Sizes  # noqa: E402

__all__ = [
    "EinsumLinear",
    "RoutedMixture",
    "Sizes",
    "btt_moe_linear",
    "btt_moe_routed",
    "einsum_linear",
    "rms_cap",
]
