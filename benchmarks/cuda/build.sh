#!/usr/bin/env bash
# Builds the standalone program btt_check (or PROGRAM=btt_backward_check) with
# nvcc alone: no CMake, no Torch.
#   benchmarks/cuda/build.sh [OUTPUT] [nvcc flags...]
# For racecheck (btt_resident.cuh says why):
#   benchmarks/cuda/build.sh build/cuda/btt_check_race -DEINFORGE_RACECHECK
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
program="${PROGRAM:-btt_check}"
out="${1:-$root/build/cuda/$program}"
shift || true
nvcc="${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}"
mkdir -p "$(dirname "$out")"
"$nvcc" -std=c++20 -O3 -lineinfo -I"$root/src" --expt-relaxed-constexpr \
  -gencode=arch=compute_90a,code=sm_90a "$@" \
  "$root/benchmarks/cuda/$program.cu" "$root"/src/einforge/kernels/cuda/*.cu \
  -lcublas -o "$out"
