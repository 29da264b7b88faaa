"""Models that `einforge train` has written."""

import json
import pathlib
from typing import Any, Union

import torch
from torch import Tensor, nn

from einforge.models import Gpt, Mlp, ResidualMlp

_EMBEDDINGS = ("token_embedding", "position_embedding")


def _checkpoint(path: pathlib.Path) -> pathlib.Path:
    """Of a run, of its checkpoints or of one: the newest checkpoint."""
    for folder in (path / "checkpoints", path):
        found = sorted(folder.glob("step_*"), key=lambda step: int(step.name[5:]))
        if found:
            return found[-1]
    if not (path / "state.json").is_file():
        raise ValueError(
            f"[load] expected the folder of a run or a checkpoint; got '{path}'")
    return path


def _upgrade(tensors: dict[str, Tensor], model: dict[str, Any]) -> None:
    """From version 1 of the format to the present one, in place."""
    for name in list(tensors):
        if name.endswith((".gamma_a", ".gamma_b")):
            tensors[name.replace(".gamma_", ".gain_")] = tensors.pop(name)
    router = model.setdefault("moe", {}).setdefault("router", {})
    if "gates" not in router:
        router["gates"] = "all" if router.pop("softmax_first", False) else "auto"


def module_of(
    model: dict[str, Any], tensors: dict[str, Tensor], inputs: int,
    outputs: int,
) -> nn.Module:
    """The module of a configuration's `model` and a checkpoint's tensors."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    kind = model.get("kind", "gpt")
    if kind == "gpt":
        module = Gpt(model, shapes)
    elif kind in ("mlp", "residual_mlp"):
        made = Mlp if kind == "mlp" else ResidualMlp
        module = made(model, shapes, inputs, outputs)
    else:
        raise ValueError(
            f"[load] expected kind gpt, mlp or residual_mlp; got {kind!r}")
    module.load_state_dict({
        f"{name}.weight" if name in _EMBEDDINGS else name:
            tensor.reshape(1) if tensor.dim() == 0 else tensor
        for name, tensor in tensors.items()})
    return module


def _add_tokenizer(
    module: Gpt, task: dict[str, Any], folder: pathlib.Path,
) -> None:
    """Of the checkpoint's task: the alphabet's name, or a library's tokenizer."""
    module.tokens = task.get("tokens", module.tokens)
    if module.tokens == "tokenizer.json":
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return
        module.tokenizer = Tokenizer.from_file(
            str(folder / task["tokenizer"]["file"]))
        module.tokenizer.no_truncation()
        module.tokenizer.no_padding()


def load(
    path: Union[str, pathlib.Path],
    device: Union[str, torch.device] = "cpu",
) -> nn.Module:
    """The model of a run: torch modules whose outputs equal the program's.

        model = einforge.load("runs/train_gpt")
        logits = model(torch.tensor([model.encode("It was ")]))

    Args:
        path: the folder of a run (its newest checkpoint), of its checkpoints or
            of one checkpoint.
        device: of the parameters, which are float32.

    Returns:
        einforge.models.Gpt, .Mlp or .ResidualMlp, in eval mode. `step` is the
        checkpoint's; a Gpt has encode() and decode(), and `tokenizer` of the
        package tokenizers where it has one and the package is installed.
        param_groups, aux_loss and router_health know its layers.

    Raises:
        ValueError: no checkpoint there, or not one that this version reads.
        ImportError: the package safetensors is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _checkpoint(pathlib.Path(path))
    try:
        state = json.loads((folder / "state.json").read_text())
        model = state["config"]["model"]
        inputs, outputs = state["inputs"], state["outputs"]
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"[load] expected a whole checkpoint in '{folder}'; got {error!r}"
        ) from None
    if not 1 <= state.get("version", 0) <= 2:
        raise ValueError(
            f"[load] expected version 1 or 2 in '{folder}'; got "
            f"{state.get('version')}")
    _upgrade(tensors, model)
    module = module_of(model, tensors, inputs, outputs)
    module.step = state["step"]
    if isinstance(module, Gpt):
        _add_tokenizer(module, state.get("task", {}), folder)
    return module.to(device).eval()
