#pragma once

#include <cstdint>
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
  // Not trained: what those with the same layers say, see LayerSums.
  bool predicted = false;
};

// Of each kind (see kind_of()), from training some of them for a few steps: at
// most `most_kinds`, those that tell what layers take. None of a kind that
// fails to train or that others say nothing of. Runs alone: workers that share
// a memory bus will be slower. `scratch` is a folder to use and remove;
// `on_kind(done, all)` is called after each.
std::map<std::string, Measured> measure_speeds(
    const std::vector<Proposal>& proposals,
    int threads,
    const std::filesystem::path& scratch,
    int most_kinds,
    const std::function<void(int, int)>& on_kind);

// A kind that was predicted, and its step.
struct PredictedStep {
  std::string kind;
  double predicted_ms = 0;
  double measured_ms = 0;
};
// Trains `count` of the kinds that were predicted, drawn by `seed`, for a few
// steps too.
std::vector<PredictedStep> check_predictions(
    const std::vector<Proposal>& proposals,
    const std::map<std::string, Measured>& speeds,
    const std::filesystem::path& scratch,
    int count,
    std::uint64_t seed,
    const std::function<void(int, int)>& on_kind);

}  // namespace einforge::search
