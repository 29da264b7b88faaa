#!/usr/bin/env bash
# Sets up a fresh Debian 12 or Ubuntu 24.04 machine for the build: Debian
# packages where we may install them, and a virtual environment in .venv.
# Safe to run again: it does nothing where all is in place.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  g++ make python3 python3-venv git
  libcli11-dev libfmt-dev nlohmann-json3-dev libtoml11-dev
  libxxhash-dev libeigen3-dev libsqlite3-dev libpq-dev libicu-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  line="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ]; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive $line
  elif sudo -n true 2>/dev/null; then
    sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $line
  else
    echo "Some packages are missing. Please type this, then start again:" >&2
    echo "  sudo apt-get update && sudo $line" >&2
    exit 1
  fi
fi
# Nice to have: a compiler cache, a browser for one test of the report, a server
# for the tests of stores.
optional=(ccache chromium postgresql)
if [ "$(id -u)" = 0 ] && [ -n "${CI:-}" ]; then
  for package in "${optional[@]}"; do
    dpkg-query -W "$package" >/dev/null 2>&1 ||
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends "$package" >/dev/null 2>&1 || true
  done
fi

requirements=(requirements.txt requirements-test.txt)
# The torch wheel is a CUDA 13 build: an older toolkit would not do.
PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH" nvcc --version 2>/dev/null |
  grep -q 'release 13\.' || requirements+=(requirements-cuda.txt)

# Python 3.10 to 3.13 have a torch 2.11 wheel.
python=${PYTHON:-python3}
stamp=.venv/setup.stamp
wanted=$(cat "${requirements[@]}" | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  [ -x .venv/bin/pip ] || "$python" -m venv .venv
  echo "Installing the Python requirements (torch is large: about 3 GB)..."
  .venv/bin/pip install --disable-pip-version-check -q \
    $(printf -- '-r %s ' "${requirements[@]}")
  scripts/link_cuda_wheels.py
  echo "$wanted" > "$stamp"
fi
