#!/usr/bin/env bash
# Fuzzes every target of tests/fuzz/ for so many seconds each, under
# AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]
#
# With names, only those: scripts/fuzz.sh 60 config structure
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

seconds="${1:-60}"
[[ "$seconds" =~ ^[0-9]+$ ]] || {
  echo "usage: scripts/fuzz.sh [SECONDS] [TARGET...]" >&2
  exit 2
}
shift || true
build="${EINFORGE_FUZZ_BUILD:-build/fuzz}"

# RelWithDebInfo: a report without lines is no report.
cmake -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DEINFORGE_TORCH=OFF -DEINFORGE_CUDA=OFF -DEINFORGE_TESTS=ON \
  -DEINFORGE_FUZZ=ON -DEINFORGE_SANITIZE=address,undefined >/dev/null
ninja -C "$build" --quiet fuzz_targets

failed=0
for program in "$build"/bin/*_fuzz; do
  name="$(basename "$program" _fuzz)"
  if (($#)) && [[ " $* " != *" $name "* ]]; then
    continue
  fi
  printf '%s: ' "$name"
  (cd "$build" && "bin/${name}_fuzz" "$seconds") || failed=1
done
exit "$failed"
