#!/usr/bin/env python3
"""Checks that includes point only upwards in the list of folders.

A folder of src/einforge may include itself and the folders before it in the
list below, which is that of docs/architecture.md. Folders without Torch may
not include Torch either.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "src" / "einforge"
ORDER = [
    "base", "structure", "scaling", "store", "report", "kernels",
    "ops", "stable", "bench", "nn", "models", "data", "distributed", "train",
    "interop", "search",
]
WITHOUT_TORCH = set(ORDER[: ORDER.index("ops")])
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def problems_of(path: pathlib.Path) -> list[str]:
    folder = path.relative_to(ROOT).parts[0]
    found = []
    for target in INCLUDE.findall(path.read_text()):
        parts = target.split("/")
        if parts[0] == "einforge":
            if ORDER.index(parts[1]) > ORDER.index(folder):
                found.append(f"{path}: {folder}/ may not include {target}")
        elif parts[0] in ("torch", "ATen", "c10") and folder in WITHOUT_TORCH:
            found.append(f"{path}: {folder}/ is without Torch: {target}")
    return found


def main() -> int:
    problems = []
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            problems += problems_of(path)
    print("\n".join(problems) or "include direction: ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
