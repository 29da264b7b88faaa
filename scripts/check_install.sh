#!/usr/bin/env bash
# Installs a build into a temporary folder and uses it from there as another
# project would: the program runs, examples/find_package builds and runs.
#   scripts/check_install.sh BUILD
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

quietly() { "$@" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }; }

quietly cmake --install "$build" --prefix "$folder/einforge" --strip
"$folder/einforge/bin/einforge" --version
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
quietly cmake -S examples/find_package -B "$folder/build" -G Ninja \
  -DCMAKE_PREFIX_PATH="$folder/einforge" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_COMPILER="$compiler"
quietly cmake --build "$folder/build"
"$folder/build/structured_layer"
