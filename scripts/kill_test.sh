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

start() {
  exec "$einforge" train "$config" --set "data.path=$data" --device cpu \
    --out "$folder/$1" --resume --json > "$folder/output" 2>&1
}
train() { (start "$1"); }

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
  # exec: the job is the program itself and not a shell that waits for it.
  start killed & pid=$!
  sleep "$(awk -v r=$RANDOM -v s="$seconds" 'BEGIN {print s * r / 32768}')"
  kill -9 "$pid" 2> /dev/null || true
  status=0
  wait "$pid" 2> /dev/null || status=$?
  if [ "$status" = 137 ]; then
    killed=$((killed + 1))
  elif [ "$status" = 0 ]; then
    # It ended first: check it and start over with the kills that are left.
    compare
    runs=$((runs + 1))
    rm -rf "$folder/killed"
  else
    cat "$folder/output"
    exit 1
  fi
done
train killed || { cat "$folder/output"; exit 1; }
compare
echo "killed $killed times in $((runs + 1)) runs: weights, optimiser and log are the same"
