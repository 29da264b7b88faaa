#!/usr/bin/env bash
# Runs btt_check on a machine with a GPU, from the repository root: builds it
# when it was not built elsewhere, finds cuBLAS, and ends with the sanitizer.
#   benchmarks/cuda/run.sh [btt_check arguments...]
set -uo pipefail
program=build/cuda/btt_check
[[ -x $program ]] || benchmarks/cuda/build.sh "$program" || exit 2
for folder in /usr/local/cuda/lib64 \
  "$(python3 -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])' \
    2>/dev/null)/lib"; do
  [[ -e $folder/libcublas.so.13 ]] &&
    export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}"
done
"$program" "$@" >"${OUT:-/tmp}/btt_check.txt" 2>&1
status=$?
grep -c '^ok' "${OUT:-/tmp}/btt_check.txt"
grep '^FAIL' "${OUT:-/tmp}/btt_check.txt" | head -20
sed -n '/checks failed/,$p' "${OUT:-/tmp}/btt_check.txt"
[[ $status -le 1 ]] || tail -5 "${OUT:-/tmp}/btt_check.txt"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    timeout 120 compute-sanitizer --tool "$tool" "$program" --small \
      --only "tiny" >"${OUT:-/tmp}/$tool.txt" 2>&1
    echo "$tool: $(grep -E 'SUMMARY' "${OUT:-/tmp}/$tool.txt" | tail -1)"
  done
fi
exit "$status"
