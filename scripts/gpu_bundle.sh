#!/usr/bin/env bash
# Gathers what a machine with a GPU and torch 2.11 needs to run a build made
# elsewhere: stripped programs and the system libraries they were linked with.
#   scripts/gpu_bundle.sh [BUILD_DIR] [OUT_DIR]
# Defaults: build/release, build/gpu.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
build="${1:-$root/build/release}"
out="${2:-$root/build/gpu}"
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
cp "$build"/lib/libeinforge_{ops,python}.so "$out/lib/"
for program in einforge ops_tests nn_tests models_tests train_torch_tests; do
  if [[ $build/bin/$program -ot $build/lib/libeinforge_ops.so ]]; then
    echo "without $program, which is missing or older than libeinforge_ops.so"
  else
    cp "$build/bin/$program" "$out/bin/"
  fi
done
# A wheel with CUDA, where `pip wheel . -w dist` made one.
for wheel in "$root"/dist/einforge-*.whl; do
  if [[ -f $wheel ]]; then cp "$wheel" "$out/"; fi
done
# The standalone checks of single kernels, where benchmarks/cuda/build.sh made
# them from the kernels as they are.
for name in btt_check btt_check_race; do
  check="$root/build/cuda/$name"
  [[ -x $check ]] || continue
  newer="$(find "$root/src/einforge/kernels/cuda" \
    "$root/benchmarks/cuda/btt_check.cu" -type f -newer "$check" -print -quit)"
  if [[ -z $newer ]]; then
    cp "$check" "$out/bin/"
  else
    echo "without $name, older than ${newer#"$root"/}: benchmarks/cuda/build.sh"
  fi
done
strip --strip-unneeded "$out"/bin/* "$out"/lib/*
# All but the libraries of C and C++ and what torch brings.
ldd "$out"/bin/* "$out"/lib/*.so |
  awk '$3 ~ /^\/(usr\/)?lib/ { print $3 }' | sort -u |
  grep -Ev '/(libc|libm|libdl|libutil|libpthread|librt|libgcc_s|libstdc[+][+]|ld-linux[^/]*)\.so' |
  while read -r library; do
    cp -L "$library" "$out/lib/"
  done
du -sh "$out" | awk '{ print $1 " in '"$out"'" }'
ls -l "$out"/bin "$out"/lib | awk 'NF > 8 { print $5, $9 }'
