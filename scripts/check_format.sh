#!/usr/bin/env bash
# Checks (or with --fix mends) the formatting of all C++ and CUDA files.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(--dry-run --Werror)
[ "${1:-}" != --fix ] || mode=(-i)
git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' |
  xargs -r .venv/bin/clang-format "${mode[@]}"
