#!/bin/sh
# How training scales over the GPUs of one host: benchmarks/scaling.py, with
# NVLink multicast off.
#   scripts/scaling.sh --out results/h200x8
#   scripts/scaling.sh --device cpu --processes 1 2 --widths 64 --out runs/scaling
export NCCL_NVLS_ENABLE=0
root=$(cd "$(dirname "$0")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$root/benchmarks/scaling.py" "$@"
