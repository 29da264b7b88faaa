"""Structured linear layers for PyTorch, on einforge's own kernels.

    import einforge, torch
    layer = einforge.nn.Linear(1024, 4096, "btt:0.25")
    y = layer(torch.randn(8, 1024))

    report = einforge.convert_(model, {"*.mlp.*": "btt:0.25"})

einforge.nn has the modules, einforge.convert_ replaces those of a model,
einforge.load reads what `einforge train` wrote. The
operators below them are einsum_linear and so on, also under
torch.ops.einforge.
"""

from einforge._library import load as _load_library, version as _version

_load_library()

from einforge.functional import (  # noqa: E402
    RoutedMixture,
    RouterLoss,
    btt_moe_linear,
    btt_moe_routed,
    einsum_linear,
    ffn,
    moe_router_loss,
    rms_cap,
)
from einforge.module import EinsumLinear  # noqa: E402
from einforge.structure import Sizes, Structure  # noqa: E402
from einforge import nn  # noqa: E402
from einforge.convert import convert_  # noqa: E402
from einforge.runs import load  # noqa: E402
from einforge.summary import (  # noqa: E402
    LayerSummary,
    ModelSummary,
    describe,
)

__version__ = _version()

__all__ = [
    "EinsumLinear",
    "LayerSummary",
    "ModelSummary",
    "RoutedMixture",
    "RouterLoss",
    "Sizes",
    "Structure",
    "btt_moe_linear",
    "btt_moe_routed",
    "convert_",
    "describe",
    "einsum_linear",
    "ffn",
    "load",
    "moe_router_loss",
    "nn",
    "rms_cap",
]
