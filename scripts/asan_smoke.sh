#!/usr/bin/env bash
# Runs the whole program, LibTorch and all, for a moment each under
# AddressSanitizer and UndefinedBehaviorSanitizer: data, training, resuming,
# generation, search, report, fit, bench. LibTorch itself is not instrumented,
# and what it leaks is not counted. The build takes half an hour on 2 cores.
#   scripts/asan_smoke.sh [BUILD]
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
build=${1:-build/asan_smoke}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

cmake -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" -DEINFORGE_CUDA=OFF \
  -DEINFORGE_TESTS=OFF -DEINFORGE_SANITIZE=address,undefined > /dev/null
ninja -C "$build" --quiet einforge

run() {
  echo "einforge $*"
  "$build/bin/einforge" "$@" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
  ! grep -A20 "runtime error" "$folder/log"
}
run data prepare examples/data --tokens chars96 --out "$folder/data"
small=(--device cpu --set "data.path=$folder/data" --set model.width=64
  --set model.layers=1 --set data.batch_size=4 --set eval_batches=2)
for structure in dense monarch btt:0.25 tensor_train low_rank \
  btt_moe:E=4,k=2 ffn_moe:E=4,k=2; do
  run train examples/configs/train_gpt.toml "${small[@]}" --set steps=20 \
    --set "model.structure.all=$structure" --out "$folder/$structure"
done
run train examples/configs/train_gpt.toml "${small[@]}" --set steps=30 \
  --out "$folder/monarch" --resume
run train examples/configs/train_gpt.toml "${small[@]}" --set steps=20 \
  --set dtype=bfloat16 --set model.structure.head=monarch:pad \
  --out "$folder/bfloat16"
run train examples/configs/train_mlp.toml --set steps=20 --device cpu \
  --out "$folder/mlp"
run generate "$folder/monarch" --prompt "The "
run search examples/configs/demo.toml --device cpu --workers 2 \
  --out "$folder/search" --set "train.data.path=$folder/data" \
  --set 'widths=[64]' --set budget.tokens=30000 --set bootstrap=20
run report "$folder/search/trials.db" --out "$folder/report.html" \
  --bootstrap 20
run fit "$folder/search/trials.db" --json
run bench --device cpu --structures monarch,btt:0.25 --widths 64 --tokens 64 \
  --repeats 1
echo "clean"
