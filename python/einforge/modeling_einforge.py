"""A GPT of `einforge train` for Hugging Face's transformers.

`einforge export RUN --to hf FOLDER` puts this file and models.py beside the
weights:

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
"""

from typing import Any, Optional

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .models import Gpt


class EinforgeConfig(PretrainedConfig):
    """`einforge_model` is a run's configuration, `einforge_shapes` has the
    shapes of the checkpoint's tensors but for the later blocks."""

    model_type = "einforge"

    def __init__(
        self,
        einforge_model: Optional[dict[str, Any]] = None,
        einforge_shapes: Optional[dict[str, list[int]]] = None,
        **options: Any,
    ):
        self.einforge_model = einforge_model or {}
        self.einforge_shapes = einforge_shapes or {}
        super().__init__(**options)


class EinforgeForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = EinforgeConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["GptBlock"]

    def __init__(self, config: EinforgeConfig):
        super().__init__(config)
        self.model = Gpt(config.einforge_model, config.einforge_shapes)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """None: a model of einforge comes with its weights."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.token_embedding = value

    def get_output_embeddings(self) -> None:
        """None: the head may be structured, and is never tied."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits (batch, time, vocabulary); with labels (batch, time), -100
        where there is none, the mean loss of the next token too."""
        logits = self.model(input_ids, attention_mask)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Optional[Tensor] = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The last tokens that fit the context, as `einforge generate` does."""
        context = self.config.einforge_model["context"]
        if attention_mask is not None:
            attention_mask = attention_mask[:, -context:]
        return {"input_ids": input_ids[:, -context:],
                "attention_mask": attention_mask}
