#!/usr/bin/env python3
"""Compiles each public header alone, with the flags its folder is built with.

usage: check_headers.py BUILD_DIRECTORY
"""

import functools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
DROPPED_WITH_VALUE = {"-o", "-c", "-MF", "-MT", "-MQ"}


def flags_by_folder(build: pathlib.Path) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    commands = json.loads((build / "compile_commands.json").read_text())
    for entry in commands:
        source = pathlib.Path(entry["file"])
        if source.suffix != ".cpp" or ROOT / "src" not in source.parents:
            continue
        folder = source.relative_to(ROOT / "src" / "einforge").parts[0]
        # Its sources are compiled twice.
        if folder == "ops" and "einforge_python.dir" in entry["command"]:
            continue
        words = shlex.split(entry["command"])
        start = next(i for i, w in enumerate(words) if w.endswith("++"))
        kept = [words[start]]
        i = start + 1
        while i < len(words):
            if words[i] in DROPPED_WITH_VALUE:
                i += 2
            elif words[i] == "-include" and (
                    "einforge_python.dir" in words[i + 1]):
                i += 2  # precompiled, it has the folder's own headers
            elif words[i] in ("-MD",):
                i += 1
            else:
                kept.append(words[i])
                i += 1
        # Of a folder that is Torch's in part, the flags of that part.
        flags[folder] = max(flags.get(folder, []), kept, key=len)
    return flags


INCLUDE = re.compile(r'^#include ["<]((\w+)/[^">]+)[">]', re.M)


@functools.cache
def includes_torch(header: pathlib.Path) -> bool:
    return any(
        folder in ("torch", "ATen", "c10") or
        folder == "einforge" and includes_torch(ROOT / "src" / name)
        for name, folder in INCLUDE.findall(header.read_text()))


# The precompiled header is Torch's, takes 3 s to load, and would stand in for
# what a header without Torch does not include.
def without_precompiled(flags: list[str]) -> list[str]:
    at = next((i for i, word in enumerate(flags) if word == "-include"), None)
    return flags if at is None else flags[:at] + flags[at + 2:]


def compile_alone(job: tuple[pathlib.Path, list[str], pathlib.Path]) -> str:
    header, flags, directory = job
    run = subprocess.run(
        [*flags, "-fsyntax-only", "-w", "-x", "c++", str(header)],
        cwd=directory, capture_output=True, text=True)
    return "" if run.returncode == 0 else f"{header}:\n{run.stderr}"


def main() -> int:
    build = pathlib.Path(sys.argv[1]).resolve()
    flags = flags_by_folder(build)
    jobs = []
    for header in sorted((ROOT / "src").rglob("*.h")):
        folder = header.relative_to(ROOT / "src" / "einforge").parts[0]
        if folder in flags:
            words = flags[folder]
            if not includes_torch(header):
                words = without_precompiled(words)
            jobs.append((header, words, build))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [text for text in pool.map(compile_alone, jobs) if text]
    print("\n".join(problems) or f"{len(jobs)} headers compile alone: ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
