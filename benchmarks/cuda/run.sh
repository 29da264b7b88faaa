#!/usr/bin/env bash
# Runs btt_check on a machine with a GPU, from the repository root: builds it
# when it was not built elsewhere, finds cuBLAS, and ends with the profiles of
# single launches that were asked for.
#   benchmarks/cuda/run.sh [--ncu SHAPE:PLAN]... [btt_check arguments...]
set -uo pipefail
program=build/cuda/btt_check
out="${OUT:-/tmp}"
profiles=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --ncu)
      profiles+=("$2")
      shift
      ;;
    *) break ;;
  esac
  shift
done
[[ -x $program ]] || benchmarks/cuda/build.sh "$program" || exit 2
for folder in /usr/local/cuda/lib64 \
  "$(python3 -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])' \
    2>/dev/null)/lib"; do
  [[ -e $folder/libcublas.so.13 ]] &&
    export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}"
done
timeout 150 "$program" "$@" >"$out/btt_check.txt" 2>&1
status=$?
echo "$(grep -c '^ok' "$out/btt_check.txt") checks ok"
grep '^FAIL' "$out/btt_check.txt" | head -20
sed -n '/checks failed/,$p' "$out/btt_check.txt"
if [[ $status -gt 1 ]]; then  # crashed or hung: nothing to profile
  tail -5 "$out/btt_check.txt"
  exit "$status"
fi
for profile in "${profiles[@]}"; do
  shape="${profile%%:*}"
  name="$out/ncu_${shape// /_}_${profile##*:}.txt"
  timeout 120 ncu --set full --print-details all --import-source no --launch-skip 2 \
    --launch-count 1 --kernel-name regex:'btt_(linear|resident)_fwd' \
    "$program" --profile "$shape" "${profile##*:}" >"$name" 2>&1
  echo "ncu $profile"
  grep -E 'Duration|DRAM Throughput|L2 Cache Throughput|L1/TEX Cache Thr|Mem Busy|Max Bandwidth|Issue Slots Busy|Executed Ipc Active|SM Busy|Bank conflicts|Registers Per' \
    "$name"
done
exit "$status"
