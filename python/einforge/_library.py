"""Finds and loads the operators, libeinforge_python.so."""

import os
import pathlib

import torch

NAME = "libeinforge_python.so"


def version() -> str:
    """Of the library that is loaded."""
    return torch.ops.einforge.version()


def candidates() -> list[pathlib.Path]:
    """Where the library is looked for, in order."""
    named = os.environ.get("EINFORGE_LIBRARY")
    if named:
        return [pathlib.Path(named)]
    package = pathlib.Path(__file__).resolve().parent
    return [package / NAME, package.parents[1] / "build/release/lib" / NAME]


def load() -> None:
    """Registers the operators.

    Raises ImportError, naming the places, where there is no library.
    """
    for path in candidates():
        if path.is_file():
            torch.ops.load_library(str(path))
            return
    places = ", ".join(str(path) for path in candidates())
    raise ImportError(
        f"expected {NAME} at one of {places}; got none of them. Build it "
        "(make build), or set EINFORGE_LIBRARY to its path"
    )
