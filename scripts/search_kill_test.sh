#!/usr/bin/env bash
# Kills a search and its workers at random moments, and when a trial has written
# its last checkpoint, with fewer and more trials between starts, and compares
# what it ends with, bit for bit, with an undisturbed one. Searches by grid, asha
# and model, so many kills of each. ctest runs a short form of the same tests.
#   scripts/search_kill_test.sh [KILLS] [SEED] [BUILD]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${3:-build/release}
EINFORGE_SEARCH_KILLS=${1:-20} EINFORGE_SEARCH_SEED=${2:-$RANDOM} \
EINFORGE_SEARCH_SCHEDULERS=asha,model \
EINFORGE_BIN_DIR=$build/bin exec "$build/bin/search_torch_tests" \
  --gtest_filter='SearchKillTest.*'
