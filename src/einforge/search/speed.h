#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "einforge/search/space.h"

namespace einforge::search {

// What a few steps of training show.
struct Measured {
  double speed = 0;  // FLOP/s
  // The most bytes that tensors took on the device; NaN on the CPU.
  double memory = 0;
};

// Of each kind (see kind_of()), from training each for a few steps: at most
// `most_kinds` of them, spread over the list, and none that fails to train.
// Runs alone: workers that share a memory bus will be slower. `scratch` is a
// folder to use and remove; `on_kind(done, all)` is called after each.
std::map<std::string, Measured> measure_speeds(
    const std::vector<Proposal>& proposals,
    int threads,
    const std::filesystem::path& scratch,
    int most_kinds,
    const std::function<void(int, int)>& on_kind);

}  // namespace einforge::search
