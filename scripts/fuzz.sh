#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz/ for so many seconds each, with libFuzzer
# under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]
#
# With names, only those: scripts/fuzz.sh 60 config structure
# The corpus stays in build/fuzz/TARGET, an input that led to a crash in
# build/fuzz/crash-TARGET-....
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

seconds="${1:-60}"
[[ "$seconds" =~ ^[0-9]+$ ]] || {
  echo "usage: scripts/fuzz.sh [SECONDS] [TARGET...]" >&2
  exit 2
}
shift || true
compiler="${CXX:-clang++}"
build="${EINFORGE_FUZZ_BUILD:-build/fuzz}"
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) {
  return 0; }' | "$compiler" -x c++ -fsanitize=fuzzer,address - -o /dev/null \
  2> /dev/null; then
  echo "fuzz: left out, as $compiler has no libFuzzer (install clang)"
  exit 0
fi

# RelWithDebInfo: a report without lines is no report.
cmake -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_COMPILER="$compiler" \
  -DEINFORGE_TORCH=OFF -DEINFORGE_CUDA=OFF -DEINFORGE_TESTS=ON \
  -DEINFORGE_FUZZ=ON -DEINFORGE_SANITIZE=address,undefined > /dev/null
ninja -C "$build" --quiet fuzz_targets

failed=0
for program in "$build"/bin/*_fuzz; do
  name="$(basename "$program" _fuzz)"
  if (($#)) && [[ " $* " != *" $name "* ]]; then
    continue
  fi
  mkdir -p "$build/$name"
  log="$build/$name.log"
  if "$program" "$build/$name" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="$build/crash-$name-" \
    > "$log" 2>&1; then
    echo "$name: $(tail -1 "$log")"
  else
    failed=1
    echo "$name: FAILED"
    tail -40 "$log"
  fi
done
exit "$failed"
