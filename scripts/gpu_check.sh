#!/usr/bin/env bash
# Checks a build on a machine with a GPU and writes everything it saw to
# ${OUT:-results/gpu}.
#   scripts/gpu_check.sh [--tests] [--sanitize] [--layers] [--bench]
#                        [--train-smoke] [DIR]
# DIR holds bin/ and lib/ of a build (default: build/gpu from
# scripts/gpu_bundle.sh, else build/release). Without flags: all parts.
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
cd "$root" || exit 2
out="${OUT:-results/gpu}"
folder=""
declare -A part
for argument in "$@"; do
  case $argument in
    --tests | --sanitize | --layers | --bench | --train-smoke)
      part[${argument#--}]=1 ;;
    -*)
      echo "expected --tests, --sanitize, --layers, --bench or" \
        "--train-smoke; got $argument" >&2
      exit 2 ;;
    *) folder="$argument" ;;
  esac
done
if [[ ${#part[@]} -eq 0 ]]; then
  for name in tests sanitize layers bench train-smoke; do part[$name]=1; done
fi
if [[ -z $folder ]]; then
  folder=build/gpu
  [[ -d $folder ]] || folder=build/release
fi
folder="$(cd "$folder" && pwd)" || exit 2
mkdir -p "$out"
out="$(cd "$out" && pwd)"

# The libraries of the torch that python3 has.
torch="$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')"
site="$(dirname "$torch")"
export LD_LIBRARY_PATH="$torch/lib:$site/nvidia/cu13/lib:$site/nvidia/cudnn/lib:$site/nvidia/nccl/lib:$site/nvidia/cusparselt/lib:$site/nvidia/nvshmem/lib:$folder/lib:${LD_LIBRARY_PATH:-}"
export EINFORGE_REQUIRE_CUDA=1
export EINFORGE_SOURCE_DIR="$root" EINFORGE_BIN_DIR="$folder/bin"
export EINFORGE_LIB_DIR="$folder/lib"
EINFORGE_PYTHON="$(command -v python3)"
export EINFORGE_PYTHON
export EINFORGE_CACHE_DIR="${EINFORGE_CACHE_DIR:-$out/cache}"

summary="$out/summary.txt"
failed=0
: >"$summary"
say() { echo "$*" | tee -a "$summary"; }
# check NAME COMMAND...: runs it with its output in NAME.txt.
check() {
  local name=$1
  shift
  local start=$SECONDS
  if "$@" >"$out/$name.txt" 2>&1; then
    say "ok   $name ($((SECONDS - start)) s)"
  else
    say "FAIL $name: exit $? ($((SECONDS - start)) s), last lines:"
    tail -5 "$out/$name.txt" | sed 's/^/       /' | tee -a "$summary"
    failed=1
  fi
}

say "$(nvidia-smi -L 2>&1 | head -1)"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1

if [[ -n ${part[tests]:-} ]]; then
  for program in "$folder"/bin/*_tests; do
    name="$(basename "$program")"
    check "$name" timeout 500 "$program" --gtest_brief=1
    grep -E '^\[ +(PASSED|FAILED|SKIPPED) +\]' "$out/$name.txt" | head -12 |
      sed 's/^/       /' | tee -a "$summary"
  done
fi
if [[ -n ${part[sanitize]:-} ]]; then
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
      EINFORGE_AUTOTUNE=0 PYTORCH_NO_CUDA_MEMORY_CACHING=1 check \
        "sanitize_$tool" timeout 280 compute-sanitizer --tool "$tool" \
        --kernel-name kernel_substring=btt_ --error-exitcode 9 \
        "$folder/bin/ops_tests" --gtest_filter='FusedBtt.Small*'
      grep 'ERROR SUMMARY\|RACECHECK SUMMARY' "$out/sanitize_$tool.txt" |
        tail -1 | tee -a "$summary"
    done
  else
    say "skip sanitize: no compute-sanitizer"
  fi
fi
if [[ -n ${part[layers]:-} ]]; then
  check layers python3 benchmarks/cuda/layer_times.py \
    --library "$folder/lib/libeinforge_ops.so" --json "$out/layer_times.json"
  cat "$out/layers.txt"
  check kernels python3 benchmarks/cuda/kernel_times.py \
    --library "$folder/lib/libeinforge_ops.so"
  cat "$out/kernels.txt"
  grep ' 32768' "$EINFORGE_CACHE_DIR/cuda_choices.json"  # what was measured best
fi
if [[ -n ${part[bench]:-} ]]; then
  check bench timeout 500 "$folder/bin/einforge" bench --dtype bfloat16 \
    --tokens 32768 --device cuda --json "$out/layers.json"
  tail -40 "$out/bench.txt"
fi
if [[ -n ${part[train-smoke]:-} ]]; then
  work="$(mktemp -d)"
  check data "$folder/bin/einforge" data prepare examples/data \
    --tokens chars96 --out "$work/data"
  check train timeout 300 "$folder/bin/einforge" train \
    examples/configs/train_gpt.toml --set device=cuda --set precision=bf16 \
    --set data.path="$work/data" --set out="$work/run" --set steps=100
  tail -3 "$out/train.txt"
  rm -rf "$work"
fi
echo "--- summary ($out)"
cat "$summary"
exit "$failed"
