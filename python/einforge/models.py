"""The models that `einforge train` makes, in plain PyTorch.

Needs torch alone, because `einforge export` puts this file beside the weights;
where einforge is imported its operators run. docs/model.md says what is
computed. Modules and tensors have the names that they have in a checkpoint, but
for the embeddings, which are modules here.
"""

import math
import re
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Routing = tuple[Tensor, Tensor]  # experts (T, k), gates (T, k)


def _operator(name: str, x: Tensor):
    """einforge's operator, where it is loaded and takes the dtype of x."""
    if x.dtype == torch.float16 and not x.is_cuda:
        return None
    return getattr(torch.ops.einforge, name, None)


class LayerNorm(nn.Module):
    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias)


class Layer(nn.Module):
    """One matrix or two cores, each with or without experts before it."""

    def __init__(self, shapes: dict[str, list[int]], capped: bool):
        super().__init__()
        for name in ("weight", "core_a", "core_b", "gain_a", "gain_b", "bias"):
            # Gains have one dimension, since FSDP2 shards no scalar.
            self.register_parameter(name, nn.Parameter(torch.zeros(
                shapes[name] or [1])) if name in shapes else None)
        self.capped = capped
        if self.weight is not None:
            return
        al, g, de, ph, rho = self.core_a.shape[-5:]
        be, _, ep, _, _ = self.core_b.shape[-5:]
        self.a_first = be * de * (al + ep) <= al * ep * (be + de)
        self.widths = (
            ((al, de * ph * rho), (be * g * rho, ep)) if self.a_first
            else ((al * g * rho, de), (be, ep * ph * rho)))

    def _cap(self, core: Tensor, gain: Optional[Tensor],
             widths: tuple[int, int]) -> Tensor:
        """gain * core / max(1, rms(core) / its initial standard deviation)."""
        if not self.capped:
            return core
        d_in, d_out = widths
        rms = core.float().square().mean().sqrt() * (
            d_in / math.sqrt(min(d_in, d_out)))
        core = core / rms.clamp(min=1).to(core.dtype)
        return core if gain is None else gain * core

    def cores(self) -> tuple[Tensor, Tensor]:
        """Both cores as the layer uses them."""
        return (self._cap(self.core_a, self.gain_a, self.widths[0]),
                self._cap(self.core_b, self.gain_b, self.widths[1]))

    def apply_cores(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out), without experts and bias."""
        run = _operator("einsum_linear", x)
        if run is not None:
            return run(x, a, b, None)
        al, g = a.shape[:2]
        x = x.unflatten(-1, (al, b.shape[0], g))
        if self.a_first:
            z = torch.einsum("agdfr,...abg->...bgdfr", a, x)
            return torch.einsum("bgefr,...bgdfr->...def", b, z).flatten(-3)
        z = torch.einsum("bgefr,...abg->...agefr", b, x)
        return torch.einsum("agdfr,...agefr->...def", a, z).flatten(-3)

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        """Of each own parameter that has one other than 1, as in training."""
        if self.weight is not None:
            return {"weight": base_width / self.weight.shape[-1]}
        return {name: base_width / d_in / 2 for name, (d_in, _) in
                zip(("core_a", "core_b"), self.widths)}


class Linear(Layer):
    """Dense or structured."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        if self.weight is not None:
            return F.linear(x, self.weight, self.bias)
        y = self.apply_cores(x, *self.cores())
        return y if self.bias is None else y + self.bias

    def merged(self) -> Tensor:
        """The dense matrix (d_out, d_in) that does the same, without grad."""
        with torch.no_grad():
            if self.weight is not None:
                return self.weight.detach().clone()
            w = torch.einsum("agdfr,bgefr->defabg", *self.cores())
            return w.flatten(3).flatten(0, 2)


class PaddedLinear(nn.Module):
    """A Linear whose widths are rounded up: zeros in, features dropped."""

    def __init__(self, inner: Linear, shapes: dict[str, list[int]], d_in: int,
                 d_out: int):
        super().__init__()
        self.inner = inner
        self.d_in, self.d_out = d_in, d_out
        self.bias = (nn.Parameter(torch.zeros(d_out)) if "bias" in shapes
                     else None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        a, b = self.inner.core_a, self.inner.core_b
        zeros = a.shape[0] * a.shape[1] * b.shape[0] - self.d_in
        y = self.inner(F.pad(x, (0, zeros)))[..., :self.d_out]
        return y if self.bias is None else y + self.bias

    def merged(self) -> Tensor:
        """The dense matrix (d_out, d_in) that does the same, without grad."""
        return self.inner.merged()[:self.d_out, :self.d_in].contiguous()


class Router(nn.Module):
    """Which experts a token takes, and with what weights."""

    def __init__(self, shapes: dict[str, list[int]], active: int,
                 options: dict[str, Any]):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shapes["weight"]))
        experts = shapes["weight"][0]
        self.register_buffer(
            "bias", torch.zeros(experts) if "bias" in shapes else None)
        self.register_buffer(
            "load", torch.zeros(experts, dtype=torch.int64)
            if "bias" in shapes else None)
        self.active = active
        gates = options.get("gates", "auto")
        self.softmax_first = gates == "all" or (gates == "auto" and active == 1)
        self.balance_weight = options.get("balance_weight", 0.0)
        self.z_weight = options.get("z_weight", 0.0)
        # Of the last forward pass in training: its weighted losses, and how
        # many tokens each expert had.
        self.loss: Optional[Tensor] = None
        self.tokens: Optional[Tensor] = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files go without the last pass, whose loss has a graph."""
        return {**self.__dict__, "loss": None, "tokens": None}

    def forward(self, x: Tensor) -> Routing:
        """(..., d_in) -> experts and gates of T tokens."""
        logits = F.linear(
            x.reshape(-1, x.shape[-1]).float(), self.weight.float())  # (T, E)
        scores = logits if self.bias is None else logits + self.bias
        experts = scores.argsort(dim=-1, descending=True, stable=True)
        experts = experts[:, :self.active]
        if self.softmax_first:
            gates = logits.softmax(-1).gather(-1, experts)
        else:
            gates = logits.gather(-1, experts).softmax(-1)
        if self.training:
            count = logits.shape[1]
            self.tokens = torch.bincount(experts.flatten(), minlength=count)
            share = self.tokens / max(1, experts.numel())
            self.loss = (
                self.balance_weight * count
                * (logits.softmax(-1).mean(0) * share).sum()
                + self.z_weight * logits.logsumexp(-1).square().mean())
        return experts, gates

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        return {"weight": base_width / self.weight.shape[1]}


def _mix(x: Tensor, routing: Routing, experts: int, run) -> Tensor:
    """sum_j gates_j run(expert_j, x); each expert runs on its tokens alone."""
    chosen, gates = routing
    rows = x.reshape(-1, x.shape[-1])
    y = None
    for expert in range(experts):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        if not len(token) and y is not None:
            continue
        out = run(expert, rows[token])
        if y is None:
            y = out.new_zeros(len(rows), out.shape[-1])
        y = y.index_add(0, token, out * gates[token, place, None].to(out.dtype))
    return y.unflatten(0, x.shape[:-1])


class Mixture(Layer):
    """E layers, of which a router picks k for each token."""

    def __init__(self, shapes: dict[str, list[int]], capped: bool,
                 router: Optional[Router], shared: Optional[Linear]):
        super().__init__(shapes, capped)
        self.router = router
        self.shared = shared

    def forward(self, x: Tensor, routing: Optional[Routing] = None) -> Tensor:
        """(..., d_in) -> (..., d_out); `routing` where another layer routes."""
        if routing is None:
            routing = self.router(x)
        if self.weight is not None:
            y = _mix(x, routing, len(self.weight),
                     lambda e, rows: F.linear(rows, self.weight[e]))
        else:
            a, b = self.cores()
            run = _operator("btt_moe_linear", x)
            y = run(x, a, b, *routing) if run is not None else _mix(
                x, routing, len(a),
                lambda e, rows: self.apply_cores(rows, a[e], b[e]))
        if self.shared is not None:
            y = y + self.shared(x)
        return y if self.bias is None else y + self.bias


class FfnMixture(nn.Module):
    """A mixture of whole two-layer networks."""

    def __init__(self, shapes: dict[str, list[int]], router: Router,
                 shared: Optional[tuple[Linear, Linear]]):
        super().__init__()
        for name in ("in", "out", "bias"):
            self.register_parameter(name, nn.Parameter(torch.zeros(
                shapes[name])) if name in shapes else None)
        self.router = router
        self.shared_in, self.shared_out = shared or (None, None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        first, second = getattr(self, "in"), self.out
        y = _mix(x, self.router(x), len(first), lambda e, rows: F.linear(
            _gelu(F.linear(rows, first[e])), second[e]))
        if self.shared_in is not None:
            y = y + self.shared_out(_gelu(self.shared_in(x)))
        return y if self.bias is None else y + self.bias

    def lr_multipliers(self, base_width: int) -> dict[str, float]:
        return {name: base_width / getattr(self, name).shape[-1]
                for name in ("in", "out")}


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class _Maker:
    """Builds layers as a checkpoint's shapes have them."""

    def __init__(self, config: dict[str, Any], shapes: dict[str, list[int]]):
        self.config = config
        self.shapes = shapes

    def under(self, name: str) -> dict[str, list[int]]:
        return {key[len(name) + 1:]: shape for key, shape in self.shapes.items()
                if key.startswith(name + ".")}

    def norm(self, name: str) -> LayerNorm:
        shapes = self.under(name)
        return LayerNorm(shapes["gain"][0], "bias" in shapes)

    def router(self, name: str, kind: str) -> Optional[Router]:
        shapes = self.under(name + ".router")
        if not shapes:
            return None
        structure = self.config["structure"]
        text = structure.get(kind) or structure["all"]
        active = int(re.search(r"k=(\d+)", text).group(1))
        return Router(shapes, active, self.config["moe"]["router"])

    def linear(self, name: str, kind: str, d_in: int, d_out: int) -> nn.Module:
        shapes = self.under(name)
        capped = self.config.get("rms_cap", True)
        if any(key.startswith("inner.") for key in shapes):
            inner = Linear(self.under(name + ".inner"), capped)
            return PaddedLinear(inner, shapes, d_in, d_out)
        matrix = shapes.get("weight")
        if (matrix and len(matrix) == 2) or len(shapes.get("core_a", ())) == 5:
            return Linear(shapes, capped)
        shared = self.under(name + ".shared")
        return Mixture(
            shapes, capped, self.router(name, kind),
            Linear(shared, capped) if shared else None)

    def ffn(self, block: nn.Module, name: str) -> None:
        """Gives `block` its feed-forward network."""
        width = self.config["width"]
        shapes = self.under(name + ".ffn")
        if not shapes:
            hidden = self.config["ffn_multiple"] * width
            block.ffn_in = self.linear(
                name + ".ffn_in", "ffn_in", width, hidden)
            block.ffn_out = self.linear(
                name + ".ffn_out", "ffn_out", hidden, width)
            return
        shared = None
        if "shared_in.weight" in shapes:
            shared = tuple(Linear(self.under(f"{name}.ffn.{part}"), False)
                           for part in ("shared_in", "shared_out"))
        block.ffn = FfnMixture(
            shapes, self.router(name + ".ffn", "ffn_in"), shared)


class _Block(nn.Module):
    def ffn_forward(self, x: Tensor) -> Tensor:
        if "ffn" in self._modules:
            return self.ffn(x)
        return self.ffn_out(_gelu(self.ffn_in(x)))


class Attention(nn.Module):
    def __init__(self, make: _Maker, name: str):
        super().__init__()
        width = make.config["width"]
        self.head_width = min(make.config["head_width"], width)
        for kind in ("q", "k", "v"):
            setattr(self, kind, make.linear(
                f"{name}.{kind}", kind, width, width))
        self.out = make.linear(
            name + ".out", "attention_out", width, width)
        self.q_norm = make.norm(name + ".q_norm")
        self.k_norm = make.norm(name + ".k_norm")
        self.router = make.router(name, "q")

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """(batch, time, width); mask: (batch, 1, time, time), True to attend."""
        routing = () if self.router is None else (self.router(x),)
        q, k, v = (
            layer(x, *routing).unflatten(-1, (-1, self.head_width))
            for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(
            self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2),
            v.transpose(1, 2), attn_mask=mask, is_causal=mask is None,
            scale=8 / self.head_width)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class GptBlock(_Block):
    def __init__(self, make: _Maker, name: str):
        super().__init__()
        self.attention_norm = make.norm(name + ".attention_norm")
        self.attention = Attention(make, name + ".attention")
        self.ffn_norm = make.norm(name + ".ffn_norm")
        make.ffn(self, name)
        self.multiplier = math.sqrt(3 / make.config["layers"])

    def forward(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        x = x + self.multiplier * self.attention(self.attention_norm(x), mask)
        return x + self.multiplier * self.ffn_forward(self.ffn_norm(x))


class Gpt(nn.Module):
    """A decoder-only transformer.

    Args:
        config: `model` of a run's configuration.
        shapes: of the checkpoint's tensors; those of the first block serve all.
    """

    def __init__(self, config: dict[str, Any], shapes: dict[str, list[int]]):
        super().__init__()
        self.config = config
        make = _Maker(config, shapes)
        vocabulary, width = shapes["token_embedding"]
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(config["context"], width)
        for i in range(config["layers"]):
            setattr(self, f"blocks_{i}", GptBlock(make, "blocks_0"))
        self.norm = make.norm("norm")
        self.head = make.linear("head", "head", width, vocabulary)
        self.tokens = {96: "chars96", 256: "bytes"}.get(vocabulary, "ids")
        self.tokenizer: Any = None  # of the package tokenizers

    def _check_tokens(self) -> None:
        if self.tokens not in ("chars96", "bytes") and self.tokenizer is None:
            raise ValueError(
                f"[Gpt] expected chars96, bytes or a tokenizer.json, which are "
                f"read here; the model is of {self.tokens!r}")

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; what chars96 lacks becomes "?".

        Raises:
            ValueError: the model has none of chars96, bytes and tokenizer.json.
        """
        self._check_tokens()
        if self.tokenizer is not None:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.tokens == "bytes":
            return list(text.encode())
        return [0 if symbol == "\n" else
                ord(symbol) - 31 if " " <= symbol <= "~" else ord("?") - 31
                for symbol in text]

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: the model has none of chars96, bytes and tokenizer.json.
        """
        self._check_tokens()
        if self.tokenizer is not None:
            return self.tokenizer.decode(tokens, skip_special_tokens=False)
        if self.tokens == "bytes":
            return bytes(tokens).decode(errors="replace")
        return "".join(chr(token + 31) if token else "\n" for token in tokens)

    def forward(self, tokens: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Logits (batch, time, vocabulary) after each of (batch, time) tokens.

        `mask` (batch, time) is 0 for padding, before or after the text; it
        takes no place and no token attends to it.

        Raises:
            ValueError: more tokens than the context has.
        """
        time = tokens.shape[1]
        if time > self.config["context"]:
            raise ValueError(
                f"[Gpt] expected at most {self.config['context']} tokens, the "
                f"context; got {time}")
        places = torch.arange(time, device=tokens.device)
        if mask is not None and mask.all():
            mask = None
        if mask is not None:
            real = mask.bool()
            causal = places[:, None] >= places  # (time, time)
            # Padding attends to itself, as a row of none would be NaN.
            mask = (real[:, None, None, :] & causal) | torch.eye(
                time, dtype=torch.bool, device=tokens.device)
            places = (real.cumsum(-1) - 1).clamp(min=0)
        x = self.token_embedding(tokens) + self.position_embedding(places)
        for i in range(self.config["layers"]):
            x = getattr(self, f"blocks_{i}")(x, mask)
        return self.head(self.norm(x))


class ResidualMlpBlock(_Block):
    def __init__(self, make: _Maker, name: str):
        super().__init__()
        self.norm = make.norm(name + ".norm")
        make.ffn(self, name)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn_forward(self.norm(x))


class ResidualMlp(nn.Module):
    """The student of arXiv 2410.02117's regression task."""

    def __init__(self, config: dict[str, Any], shapes: dict[str, list[int]],
                 inputs: int, outputs: int):
        super().__init__()
        self.config = config
        make = _Maker(config, shapes)
        self.input = make.linear("input", "input", inputs, config["width"])
        self.norm = make.norm("norm")
        for i in range(config["layers"]):
            setattr(self, f"blocks_{i}", ResidualMlpBlock(make, "blocks_0"))
        self.head = make.linear("head", "head", config["width"], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        h = self.norm(_gelu(self.input(x)))
        for i in range(self.config["layers"]):
            h = getattr(self, f"blocks_{i}")(h)
        return self.head(h)


class Mlp(nn.Module):
    """Layers with ReLU between."""

    def __init__(self, config: dict[str, Any], shapes: dict[str, list[int]],
                 inputs: int, outputs: int):
        super().__init__()
        self.config = config
        make = _Maker(config, shapes)
        width = config["width"]
        self.input = make.linear("input", "input", inputs, width)
        for i in range(config["layers"]):
            setattr(self, f"hidden_{i}", make.linear(
                "hidden_0", "all", width, width))
        self.head = make.linear("head", "head", width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        h = F.relu(self.input(x))
        for i in range(self.config["layers"]):
            h = F.relu(getattr(self, f"hidden_{i}")(h))
        return self.head(h)
