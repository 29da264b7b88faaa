"""Converted models of Hugging Face's transformers: saved and loaded again.

    import einforge.hf
    einforge.convert_(model, {"*.mlp.*": "btt:0.25"})
    model.save_pretrained(folder)  # config.json says which layers are what
    model = AutoModelForCausalLM.from_pretrained(folder)

or, from dense weights, converted as they are loaded:

    AutoModelForCausalLM.from_pretrained(
        dense, quantization_config=einforge.hf.Structures({"*.mlp.*": "monarch"}))

Importing this module registers the quantisation method "einforge", which is
transformers' way to say that a model's layers are not those of its class.
"""

import re
from typing import Any, Optional

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import (
    HfQuantizer, register_quantization_config, register_quantizer)
from transformers.utils.quantization_config import QuantizationConfigMixin

from einforge.convert import convert_, replace_, structured
from einforge.nn import Linear, MoeLinear, fuse_

_METHOD = "einforge"


@register_quantization_config(_METHOD)
class Structures(QuantizationConfigMixin):
    """Which layers have which structure.

    Args:
        layers: structure by dotted name, in the config.json of a converted
            model, or by pattern, to convert dense weights as they are loaded.
    """

    def __init__(self, layers: dict[str, str], **_: Any):
        self.quant_method = _METHOD
        self.layers = dict(layers)


@register_quantizer(_METHOD)
class StructureQuantizer(HfQuantizer):
    """Puts einforge's layers in place of those that a config.json names."""

    def _process_model_before_weight_loading(
        self, model: nn.Module, **_: Any
    ) -> None:
        if not self.pre_quantized:
            return
        for saved, structure in self.quantization_config.layers.items():
            name = _name_in(model, saved)
            if name is None:
                continue  # a head, of which this class has none
            layer = model.get_submodule(name)
            replace_(model, layer, structured(layer, structure))
            # Or GPT-2 would initialise the `weight` of its c_proj again.
            parent = model.get_submodule(name.rpartition(".")[0])
            parent._is_hf_initialized = True
        fuse_(model)

    def get_weight_conversions(self) -> list[Any]:
        """Files of older versions have a mixture's router without `.weight`."""
        from transformers.core_model_loading import WeightRenaming

        self.renamings = [
            WeightRenaming(f"^{re.escape(name)}\\.router$", f"{name}.router.weight")
            for name, structure in self.quantization_config.layers.items()
            if "_moe" in structure]
        return super().get_weight_conversions() + self.renamings

    def _process_model_after_weight_loading(
        self, model: nn.Module, **_: Any
    ) -> None:
        # transformers saves with what it has renamed as it was.
        conversions = getattr(model, "_weight_conversions", None)
        if conversions:
            model._weight_conversions = [
                conversion for conversion in conversions
                if conversion not in self.renamings]
        if not self.pre_quantized:
            convert_(model, self.quantization_config.layers, measure=False)
        self.quantization_config.layers = structures_of(model)
        for module in model.modules():
            if isinstance(module, MoeLinear):
                module.router.weight.data = module.router.weight.data.float()

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True


def _name_in(model: PreTrainedModel, saved: str) -> Optional[str]:
    """The name of a layer that was saved with another head, or with none."""
    prefix = f"{model.base_model_prefix}."
    for name in (saved, saved.removeprefix(prefix), prefix + saved):
        try:
            model.get_submodule(name)
            return name
        except AttributeError:
            pass
    return None


def structures_of(model: nn.Module) -> dict[str, str]:
    """The structure of each of einforge's layers by dotted name."""
    return {name: module.structure.name for name, module in
            model.named_modules() if isinstance(module, (Linear, MoeLinear))}


def record(model: PreTrainedModel) -> Optional[Structures]:
    """Makes save_pretrained write which layers have a structure.

    convert_ does it for the model that it is given; call this where you
    converted a part of a model, or put layers in place by hand.
    """
    layers = structures_of(model)
    model.config.quantization_config = Structures(layers) if layers else None
    return model.config.quantization_config
