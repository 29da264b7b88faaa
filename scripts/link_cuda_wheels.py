#!/usr/bin/env python3
"""Makes the CUDA wheels in .venv look like a toolkit to CMake and the linker.

The wheels lack two things that a linker expects: a lib64 folder, and an
unversioned libX.so beside each libX.so.N.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def link(path: pathlib.Path, target: str) -> None:
    if not path.exists() and not path.is_symlink():
        path.symlink_to(target)


def main() -> int:
    for toolkit in ROOT.glob(".venv/lib/python3*/site-packages/nvidia/cu13"):
        if not (toolkit / "lib").is_dir():
            continue
        link(toolkit / "lib64", "lib")
        for library in sorted((toolkit / "lib").glob("lib*.so.*")):
            stem = library.name.split(".so.")[0]
            link(library.with_name(stem + ".so"), library.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
