#!/usr/bin/env bash
# Builds the Python wheel and tries it as a user would: in a virtual environment
# of its own with torch alone, from an empty folder, with no compiler and no CUDA
# toolkit to be found.
#   scripts/check_wheel.sh [--torch VERSION] [WHEEL]
# WHEEL: one that is there already. VERSION: of the torch that is installed to try
# it with, 3 GB; without it the torch of .venv is used as it lies there.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${EINFORGE_WHEEL_PYTHON:-$root/.venv/bin/python}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

torch=""
if [[ ${1:-} == --torch ]]; then
  torch="${2:?expected a version after --torch}"
  shift 2
fi
wheel="${1:-}"
if [[ -z $wheel ]]; then
  # The environment's own build tools, so that nothing is downloaded.
  (cd "$root" && "$python" -m pip wheel . -q --no-deps --no-build-isolation \
    --disable-pip-version-check -w "$work/dist")
  wheel="$(echo "$work"/dist/*.whl)"
fi
bytes="$(stat -c %s "$wheel")"
echo "$(basename "$wheel"): $((bytes / 1000)) kB"
((bytes < 60000000)) || { echo "expected under 60 MB" >&2; exit 1; }

# No library but those of C, C++ and torch, and no path of this machine.
mkdir "$work/content"
"$python" -m zipfile -e "$wheel" "$work/content"
for file in "$work"/content/einforge/*.so "$work"/content/einforge/bin/*; do
  needed="$(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')"
  others="$(grep -Ev '^(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so|ld-linux|libtorch_cpu\.so$)' \
    <<<"$needed" || true)"
  [[ -z $others ]] || { echo "$file needs $others" >&2; exit 1; }
  ! readelf -d "$file" | grep -E 'RPATH|RUNPATH' ||
    { echo "$file has a run path" >&2; exit 1; }
  if strings -n 8 "$file" | grep -F "$root"; then
    echo "$file names this folder" >&2
    exit 1
  fi
done

packages=(-c 'import sysconfig; print(sysconfig.get_path("platlib"))')
"$python" -m venv "$work/venv"
install=("$work/venv/bin/python" -m pip install -q --disable-pip-version-check)
if [[ -n $torch ]]; then
  "${install[@]}" "torch==$torch"
  "${install[@]}" --no-index "$wheel"  # with what it depends on, which is there
else
  # torch and what it needs, by a link; nothing of the project is in there.
  "$python" "${packages[@]}" \
    >"$("$work/venv/bin/python" "${packages[@]}")/torch.pth"
  "${install[@]}" --no-index --no-deps "$wheel"
fi

# What the README tells a user to type.
"$python" - "$root" >"$work/readme.py" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1] + "/scripts")
import check_docs
print("\n".join(block.setup + block.text
                for block in check_docs.blocks_of("README.md")
                if block.kind == "python"))
PYTHON
grep -q einforge "$work/readme.py"

cat >"$work/try.py" <<'PYTHON'
import time
import torch
start = time.perf_counter()
import einforge
seconds = time.perf_counter() - start
print(f"torch {torch.__version__}, einforge {einforge.__version__} at "
      f"{einforge.__path__[0]}, imported in {seconds:.2f} s beside torch")
assert seconds < 2, seconds
layer = einforge.nn.Linear(1024, 4096, "btt:0.25")
x = torch.randn(8, 1024, requires_grad=True)
y = layer(x)
y.sum().backward()
torch.testing.assert_close(
    y, x @ layer.merged().T + layer.bias, rtol=1e-4, atol=1e-4)
mixture = einforge.nn.MoeLinear(64, 64, "btt_moe:E=4,k=2")
mixture(torch.randn(5, 64)).sum().backward()
torch.library.opcheck(
    torch.ops.einforge.einsum_linear.default,
    (x, *(core.detach().requires_grad_() for core in layer.cores())))
compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(x), y)
if torch.cuda.is_available():
    on_gpu = layer.cuda().bfloat16()(x.detach().cuda().bfloat16())
    on_gpu.sum().backward()
    gap = float((on_gpu.float().cpu() - y).norm() / y.norm())
    print(f"CUDA in bfloat16 differs by {gap:.4f}")
    assert gap < 0.02, gap
print("ok")
PYTHON
# Folders without compiler and toolkit; no variable leads to them either.
mkdir "$work/bin" "$work/empty"
for tool in bash env; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
cd "$work/empty"
clean=(env -i "HOME=$work" "PATH=$work/venv/bin:$work/bin" CUDA_HOME=/nowhere)
"${clean[@]}" python "$work/readme.py"
"${clean[@]}" python "$work/try.py"
time "${clean[@]}" einforge --version
described="$("${clean[@]}" einforge describe btt:0.25 --d-in 1024)"
head -1 <<<"$described"
