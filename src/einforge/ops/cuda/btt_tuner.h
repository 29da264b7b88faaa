#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "einforge/kernels/cuda/btt_linear.h"
#include "einforge/ops/cuda/fastest.h"
#include "einforge/ops/kernel_table.h"

// Choices that are measured once, for each problem on each kind of device,
// and then remembered: in memory, and in ${EINFORGE_CACHE_DIR:-~/.cache/
// einforge}/cuda_choices.json under a key of the kernels' version, the device
// and the versions of CUDA and torch. Tokens count in powers of two. A choice
// whose runs varied, as they do where another process works on the device,
// holds for the process that measured it; the next one measures again.
//
// Nothing is measured while a CUDA graph is captured, with EINFORGE_AUTOTUNE=0,
// or where memory is too short: then the first row of the table and the first
// plan are taken, and nothing is remembered. EINFORGE_LOG_KERNELS=1 prints what
// was measured.
namespace einforge::ops {

// Of the current device, read once.
const kernels::cuda::DeviceLimits& device_limits();

// The fastest of btt_plans(), which must not be empty.
kernels::cuda::BttPlan fastest_plan(
    const kernels::cuda::BttSizes& sizes, std::int64_t tokens);

// One way to run what is measured.
struct Candidate {
  std::string name;
  std::function<void()> run;
};

// The name of the candidate that takes the least time for a problem, which its
// text tells from all others; none where nothing is known and nothing may be
// measured.
std::optional<std::string> fastest_of(
    const std::string& problem,
    const std::function<std::vector<Candidate>()>& make_candidates);

// For candidates: values that look random and leave torch's own generator, and
// so a training run's random numbers, as they are.
torch::Tensor random_values(c10::IntArrayRef sizes, torch::ScalarType dtype);

// The number of tokens that choices for so many are measured with.
std::int64_t token_bucket(std::int64_t tokens);

// A problem as numbers, which choices are looked up by on every call: all that
// to_string() tells apart, with tokens in buckets.
using ProblemKey = std::array<std::int64_t, 10>;
ProblemKey problem_key(const EinsumLinearProblem& problem);

}  // namespace einforge::ops
