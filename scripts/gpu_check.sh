#!/usr/bin/env bash
# Checks a build on a machine with a GPU and writes everything it saw to
# ${OUT:-results/gpu}.
#   scripts/gpu_check.sh [--PART]... [DIR]
# DIR holds bin/ and lib/ of a build (default: build/gpu from
# scripts/gpu_bundle.sh, else build/release). Without flags: all parts but
# compile. Each command has a time limit.
#   tests        the programs *_tests
#   graph        forward and backward in a CUDA graph, from Python
#   python       the layers under PyTorch's own tools, from Python
#   wheel        DIR's einforge-*.whl, as a user installs it
#   user         examples/pytorch/train_gpt.py at width 1024, compiled
#   convert      milliseconds of convert_'s report beside einforge bench
#   sanitize     memcheck, racecheck and initcheck of the kernels, small sizes
#   layers       einforge bench: the layers of the claims, 32,768 tokens
#   paper        einforge bench: the paper's 23 structures at three widths
#   compile      torch.compile's rows beside those of paper (slow)
#   decode       einforge bench: 1 to 64 tokens
#   moe          einforge bench: mixtures of experts
#   widths       einforge bench: widths that are no powers of two
#   coverage     einforge bench: 41 shapes by seven structures, and mixtures
#   gpt          tokens per second of GPTs, with profiles, beside plain PyTorch
#   kernels      the kernels of a backward pass, by torch's profiler
#   train-smoke  100 steps of the example
set -uo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
cd "$root" || exit 2
out="${OUT:-results/gpu}"
folder=""
all=(tests graph python wheel user convert sanitize layers paper decode moe
  widths coverage gpt kernels train-smoke)
declare -A part
for argument in "$@"; do
  name="${argument#--}"
  if [[ $argument == -h || $argument == --help ]]; then
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' scripts/gpu_check.sh
    exit
  elif [[ $argument == --compile || ($argument == --* &&
    " ${all[*]} " == *" $name "*) ]]; then
    part[$name]=1
  elif [[ $argument == -* ]]; then
    echo "expected one of ${all[*]/#/--} --compile; got $argument" >&2
    exit 2
  else
    folder="$argument"
  fi
done
if [[ ${#part[@]} -eq 0 ]]; then
  for name in "${all[@]}"; do part[$name]=1; done
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
: >"$summary"
failed="$out/failed"  # is there once a command has failed
rm -f "$failed"
say() { echo "$*" | tee -a "$summary"; }
# What to show of a failed command's output.
last_lines() { tail -5 "$1"; }
# check NAME COMMAND...: runs it with its output in NAME.txt. Of a failure it
# shows what $explain prints of that.
explain=last_lines
check() {
  local name=$1
  shift
  local start=$SECONDS
  if "$@" >"$out/$name.txt" 2>&1; then
    say "ok   $name ($((SECONDS - start)) s)"
  else
    # At once, as others may be running.
    say "FAIL $name: exit $? ($((SECONDS - start)) s):"$'\n'"$(
      "$explain" "$out/$name.txt" | cut -c -200 | sed 's/^/       /')"
    : >"$failed"
  fi
}

say "$(nvidia-smi -L 2>&1 | head -1)"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1

# test_program PROGRAM: its tests, dealt to processes that share the cores.
test_processes=$((($(nproc) + 3) / 4))
test_program() {
  local program=$1 name i
  for ((i = 0; i < test_processes; ++i)); do
    name="$(basename "$program")_$i"
    (
      export GTEST_TOTAL_SHARDS=$test_processes GTEST_SHARD_INDEX=$i
      export OMP_NUM_THREADS=$(($(nproc) / test_processes))
      check "$name" timeout 500 "$program" --gtest_brief=1
      grep -E '^\[ +(PASSED|FAILED|SKIPPED) +\]' "$out/$name.txt" | head -12 |
        sed "s/^/       $name: /" | tee -a "$summary"
    ) &
  done
  wait
}
if [[ -n ${part[tests]:-} ]]; then
  for program in "$folder"/bin/*_tests; do
    test_program "$program"
  done
fi
if [[ -n ${part[graph]:-} ]]; then
  EINFORGE_LIBRARY="$folder/lib/libeinforge_python.so" check graph timeout 120 \
    python3 tests/python/test_ops.py CudaGraph
fi
if [[ -n ${part[python]:-} ]]; then
  EINFORGE_LIBRARY="$folder/lib/libeinforge_python.so" \
    EINFORGE_TEST_DEVICE=cuda check python timeout 400 \
    python3 tests/python/test_ecosystem.py
fi
if [[ -n ${part[wheel]:-} ]]; then
  wheels=("$folder"/einforge-*.whl)
  if [[ -f ${wheels[0]} ]]; then
    EINFORGE_WHEEL_PYTHON="$(command -v python3)" check wheel timeout 300 \
      scripts/check_wheel.sh "${wheels[0]}"
    tail -3 "$out/wheel.txt"
  else
    say "skip wheel: none in $folder, see scripts/gpu_bundle.sh"
  fi
fi
# In Python, with the operators of the build.
user_python() {
  EINFORGE_LIBRARY="$folder/lib/libeinforge_python.so" PYTHONPATH=python \
    timeout 400 python3 "$@"
}
if [[ -n ${part[user]:-} ]]; then
  for structure in dense monarch btt_moe:E=16,k=2; do
    check "user_${structure%%:*}" user_python examples/pytorch/train_gpt.py \
      --width 1024 --layers 6 --context 128 --batch 512 --steps 200 --compile \
      --device cuda --structure "$structure" \
      --json "$out/user_${structure%%:*}.json"
    tail -1 "$out/user_${structure%%:*}.txt"
  done
fi
if [[ -n ${part[convert]:-} ]]; then
  check convert user_python benchmarks/cuda/convert_ms.py \
    --program "$folder/bin/einforge" --json "$out/convert_ms.json"
  cat "$out/convert.txt"
fi
# The distinct errors, the most frequent first; of a tool that reports none (it
# crashed, or its time was over) the last lines.
error_lines() {
  local errors
  errors="$(grep -oE '(Error: |Invalid |Program hit |at (void )?einforge::).*' \
    "$1" | cut -c -180 | sort | uniq -c | sort -rn | head -20)"
  if [[ -n $errors ]]; then echo "$errors"; else last_lines "$1"; fi
}
# Leaves out initcheck's reports of kernels that are not ours, counts both, and
# fails if there is one of ours. The tool does not see what TMA writes, and all
# our outputs leave a kernel that way: torch's own kernels that read them next,
# in the tests' comparisons, are reported by the ten thousand. Whether an output
# is written in full, the tests ask with memory filled with NaN (torch's fill of
# uninitialised memory); what initcheck adds is whether our kernels read what
# nobody wrote. Of those, two read rows of a mixture, which TMA wrote.
ours_alone() {
  awk '
    /^=========/ && /Uninitialized/ { report = $0; next }
    /^=========/ && report != "" {
      left_out = !($0 ~ / at (void )?einforge::/) ||
        $0 ~ /::(tokens_kernel|moe_combine_rows)</
      if (left_out) { ++others } else { ++ours; print report }
      report = ""
    }
    /SUMMARY/ { left_out = 0 }
    /^========= *$/ && left_out { left_out = 0; next }
    /were not printed/ { ++ours }  # there may be some of ours among them
    !left_out || !/^=========/
    END {
      printf "%d reports of our kernels; %d of others, left out\n", ours, others
      exit ours > 0
    }'
}
initcheck() {
  timeout "${SANITIZE_LIMIT:-280}" env -u OUT compute-sanitizer \
    --tool initcheck --print-limit 10000000 --show-backtrace no "$@" 2>&1 |
    ours_alone
}
# sanitize TOOL NAME COMMAND...: in the background, as the tools are slow and
# leave most of the GPU idle.
sanitize() {
  local tool=$1 name="sanitize_$1_$2" explain=error_lines
  shift 2
  if [[ $tool == initcheck ]]; then
    check "$name" initcheck "$@"
  else
    check "$name" timeout "${SANITIZE_LIMIT:-280}" env -u OUT \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$@"
  fi
  grep 'ERROR SUMMARY\|RACECHECK SUMMARY\|reports of our kernels' \
    "$out/$name.txt" | tail -1 | sed "s/^/       $name: /" | tee -a "$summary"
}
if [[ -n ${part[sanitize]:-} ]]; then
  if command -v compute-sanitizer >/dev/null; then
    (
      export EINFORGE_AUTOTUNE=0 PYTORCH_NO_CUDA_MEMORY_CACHING=1
      for tool in memcheck racecheck initcheck; do
        # initcheck has to see who writes what, and so all kernels.
        filter=(--kernel-name kernel_substring=btt_
          --kernel-name kernel_substring=two_pass
          --kernel-name kernel_substring=pad_rows
          --kernel-name kernel_substring=kronecker_
          --kernel-name kernel_substring=moe_
          --kernel-name kernel_substring=tokens_kernel
          --kernel-name kernel_substring=logits_kernel
          --kernel-name kernel_substring=dweight_kernel
          --kernel-name kernel_substring=merge_
          --kernel-name kernel_substring=planes_
          --kernel-name kernel_substring=_norm
          --kernel-name kernel_substring=rms_cap
          --kernel-name kernel_substring=column_sums
          --kernel-name kernel_substring=router_loss)
        [[ $tool == initcheck ]] && filter=()
        sanitize "$tool" ops "${filter[@]}" "$folder/bin/ops_tests" \
          --gtest_filter='*.Small*:*TakesStrides*cuda*:*AnotherDtype*cuda*' &
        # Every plan of the forward kernels.
        plans=("$folder/bin/btt_check" --small)
        [[ $tool == memcheck ]] || plans=("$folder/bin/btt_check" --race)
        [[ $tool == racecheck ]] && plans=("$folder/bin/btt_check_race" --race)
        if [[ -x ${plans[0]} ]]; then
          sanitize "$tool" plans "${filter[@]}" "${plans[@]}" &
        else
          say "skip sanitize_${tool}_plans: no $(basename "${plans[0]}")," \
            "see benchmarks/cuda/build.sh"
        fi
      done
      wait
    )
  else
    say "skip sanitize: no compute-sanitizer"
  fi
fi
# bench SUITE LIMIT: rows in SUITE.json, the table in bench_SUITE.txt.
bench() {
  check "bench_$1" timeout "$2" "$folder/bin/einforge" bench --suite "$1" \
    --device cuda --json "$out/$1.json"
  grep -v '^measuring' "$out/bench_$1.txt"
}
[[ -z ${part[layers]:-} ]] || bench layers 200
[[ -z ${part[paper]:-} ]] || bench paper 400
if [[ -n ${part[compile]:-} ]]; then
  check compile timeout 580 python3 benchmarks/cuda/compile_rows.py \
    "$out/paper.json" --jobs 8 --limit 500
  cat "$out/compile.txt"
fi
[[ -z ${part[decode]:-} ]] || bench decode 120
[[ -z ${part[moe]:-} ]] || bench moe 200
[[ -z ${part[widths]:-} ]] || bench widths 200
[[ -z ${part[coverage]:-} ]] || bench coverage 500
if [[ -n ${part[gpt]:-} ]]; then
  check gpt timeout 400 python3 benchmarks/gpt_gpu.py --profile \
    --program "$folder/bin/einforge" --out "$out/gpt"
  cat "$out/gpt.txt"
fi
if [[ -n ${part[kernels]:-} ]]; then
  check kernels timeout 120 python3 benchmarks/cuda/kernel_times.py \
    --library "$folder/lib/libeinforge_ops.so"
  cat "$out/kernels.txt"
fi
if [[ -n ${part[train-smoke]:-} ]]; then
  work="$(mktemp -d)"
  check data "$folder/bin/einforge" data prepare examples/data \
    --tokens chars96 --out "$work/data"
  check train timeout 300 "$folder/bin/einforge" train \
    examples/configs/train_gpt.toml --set device=cuda --set dtype=bfloat16 \
    --set data.path="$work/data" --out "$work/run" --set steps=100
  tail -3 "$out/train.txt"
  rm -rf "$work"
fi
echo "--- summary ($out)"
cat "$summary"
[[ ! -e $failed ]]
