"""The command line that comes with the wheel.

A package of its own, as importing einforge would import torch for seconds.
"""

import os
import pathlib
import sys

# Commands that run on LibTorch, whose C++ has no stable binary interface: the
# wheel, which serves many versions of torch, goes without.
_NEED_LIBTORCH = (
    "train", "generate", "search", "bench", "convert", "export")


def main() -> None:
    """Becomes the program, which needs neither Python nor torch."""
    program = pathlib.Path(__file__).parents[1] / "einforge/bin/einforge"
    if not program.is_file():
        sys.exit("einforge: this installation has no program: build a wheel "
                 "(pip wheel .), or the project (make build)")
    if sys.argv[1:2] and sys.argv[1] in _NEED_LIBTORCH:
        print(f"einforge: '{sys.argv[1]}' is not in the Python wheel; build the "
              "project (make build) for it", file=sys.stderr)
        sys.exit(2)
    # What `data prepare --tokens` runs libraries of tokenizers in.
    os.environ.setdefault("EINFORGE_PYTHON", sys.executable)
    os.execv(program, [str(program), *sys.argv[1:]])
