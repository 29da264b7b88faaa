#!/usr/bin/env bash
# Kills a training run with SIGKILL at random moments until it has ended, and
# compares it with an uninterrupted one: the same weights and optimiser state
# bit for bit, the same log but for its timings.
#   scripts/kill_test.sh EINFORGE CONFIG DATA [KILLS] [SECONDS]
# KILLS (20) moments are spread at random over the first SECONDS (2) of each
# start; OMP_NUM_THREADS fixes the threads.
set -euo pipefail
einforge=$(realpath "$1")
config=$(realpath "$2")
data=$(realpath "$3")
kills=${4:-20}
seconds=${5:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} EINFORGE_PROGRESS=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

train() {
  "$einforge" train "$config" --set "data.path=$data" --device cpu \
    --out "$folder/$1" --resume --json > "$folder/output" 2>&1
}

last() { ls -d "$folder/$1"/checkpoints/step_* | tail -1; }
log() { sed -E 's/"(seconds|tokens_per_second)":[^,}]*,?//g' "$folder/$1/log.jsonl"; }
compare() {
  for file in model.safetensors optimizer.safetensors; do
    cmp "$(last whole)/$file" "$(last killed)/$file"
  done
  diff <(log whole) <(log killed)
}

train whole || { cat "$folder/output"; exit 1; }
killed=0
runs=0
while [ "$killed" -lt "$kills" ]; do
  train killed & pid=$!
  sleep "$(awk -v r=$RANDOM -v s="$seconds" 'BEGIN {print s * r / 32768}')"
  # The subshell's child is the program itself.
  child=$(pgrep -P "$pid" || true)
  if [ -n "$child" ] && kill -9 $child 2> /dev/null; then
    killed=$((killed + 1))
    wait "$pid" 2> /dev/null || true
  else
    # It ended first: check it and start over with the kills that are left.
    wait "$pid" || { cat "$folder/output"; exit 1; }
    compare
    runs=$((runs + 1))
    rm -rf "$folder/killed"
  fi
done
train killed || { cat "$folder/output"; exit 1; }
compare
echo "killed $killed times in $((runs + 1)) runs: weights, optimiser and log are the same"
