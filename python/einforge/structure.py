"""What a structure is at a width, from the program's own algebra."""

import functools
import json
import operator
from typing import Any, NamedTuple, Optional

import torch


class Sizes(NamedTuple):
    """The integer sizes of a layer; `einforge describe --json` prints them.

    Monarch is alpha, gamma, epsilon and phi near the square roots of the
    widths, BTT the same with rho above 1.
    """

    alpha: int = 1
    beta: int = 1
    gamma: int = 1
    delta: int = 1
    epsilon: int = 1
    phi: int = 1
    rho: int = 1

    @property
    def d_in(self) -> int:
        return self.alpha * self.beta * self.gamma

    @property
    def d_out(self) -> int:
        return self.delta * self.epsilon * self.phi

    @property
    def core_a(self) -> tuple[int, ...]:
        """Shape of core A: (alpha, gamma, delta, phi, rho)."""
        return (self.alpha, self.gamma, self.delta, self.phi, self.rho)

    @property
    def core_b(self) -> tuple[int, ...]:
        """Shape of core B: (beta, gamma, epsilon, phi, rho)."""
        return (self.beta, self.gamma, self.epsilon, self.phi, self.rho)


class Core(NamedTuple):
    """How a core starts and learns (arXiv 2410.02117, section 5)."""

    init_std: float  # also the cap on its RMS
    lr_multiplier: float


class Structure(NamedTuple):
    """A structure at a width; of a mixture, sizes and cores of one expert."""

    name: str  # as normalised: "btt:0.25"
    family: str
    d_in: int
    d_out: int
    sizes: Sizes  # their products exceed d_in and d_out where it is padded
    dense: bool  # one matrix, no pair of cores
    cores: tuple[Core, ...]
    b_first: bool  # core B is contracted first: order BA
    experts: Optional[int]
    active: Optional[int]
    router_lr_multiplier: float
    parameters: int
    macs: int  # for one vector
    rank: int
    omega: float
    psi: float
    nu: float

    @property
    def padded(self) -> bool:
        return (self.sizes.d_in, self.sizes.d_out) != (self.d_in, self.d_out)


def describe(
    structure: str, d_in: int, d_out: int, base_width: int = 768
) -> Structure:
    """The sizes, costs and parametrisation of `structure`, d_in -> d_out.

    Args:
        structure: any name that `einforge describe` knows, or a theta.
        base_width: the d_in at which a dense layer's learning-rate multiplier
            is 1.

    Raises:
        ValueError: there is no such structure, or not at these widths; names
            the nearest that there is.
    """
    return _described(
        _text(structure), _width("d_in", d_in), _width("d_out", d_out),
        _width("base_width", base_width))


def check_name(structure: str) -> None:
    """Raises ValueError where there is no such structure at any width."""
    _of_library(torch.ops.einforge.normalise_structure, _text(structure))


def _text(structure: str) -> str:
    if not isinstance(structure, str):
        raise ValueError(
            f"[einforge] expected the name of a structure; got {structure!r}")
    return structure


def _width(name: str, width: int) -> int:
    try:
        value = operator.index(width)
    except TypeError:
        raise ValueError(
            f"[einforge] expected {name} to be a whole number; got {width!r}"
        ) from None
    if value < 1:
        raise ValueError(f"[einforge] expected {name} above 0; got {width}")
    return value


def _of_library(op: Any, *args: Any) -> str:
    try:
        return op(*args)
    except RuntimeError as error:  # what torch 2.15 makes of a ValueError
        raise ValueError(str(error)) from None


@functools.lru_cache(maxsize=4096)
def _described(
    structure: str, d_in: int, d_out: int, base_width: int
) -> Structure:
    found = json.loads(_of_library(
        torch.ops.einforge.describe_structure,
        structure, d_in, d_out, base_width))
    return Structure(
        name=found["structure"],
        family=found["family"],
        d_in=d_in,
        d_out=d_out,
        sizes=Sizes(**found["sizes"]),
        dense=found["cores"][0]["core"] == "dense",
        cores=tuple(
            Core(core["init_std"], core["lr_multiplier"])
            for core in found["cores"]
        ),
        b_first=found["order"] == "BA",
        experts=found.get("experts"),
        active=found.get("active"),
        router_lr_multiplier=found.get("router", {}).get("lr_multiplier", 1.0),
        **{key: found[key] for key in (
            "parameters", "macs", "rank", "omega", "psi", "nu")},
    )
