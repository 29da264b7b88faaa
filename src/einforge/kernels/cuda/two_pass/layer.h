#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/kernels/cuda/btt_sizes.h"
#include "einforge/kernels/cuda/two_pass/plan.h"

// Which kernels a layer or mixture takes in two passes; needs no GPU.
namespace einforge::kernels::cuda::two_pass {

inline constexpr int kVector = 8;

// gamma and phi, which are contiguous in memory, as the kernels have them: in
// whole vectors.
[[nodiscard]] int padded(int size);
[[nodiscard]] BttSizes padded(BttSizes sizes);

// Whether padding costs little. Low rank, for one, has gamma = phi = 1, and
// ways of its own.
[[nodiscard]] bool suits(const BttSizes& own);

// Layers of as many rows share kernels.
[[nodiscard]] std::int64_t row_class(std::int64_t rows);

// The stages of a layer of padded sizes.
// @param own_phi of the layer before it was padded
[[nodiscard]] StageProblem first_stage(
    const BttSizes& sizes, std::int64_t rows, int experts);
[[nodiscard]] StageProblem second_stage(
    const BttSizes& sizes, int own_phi, std::int64_t rows, int experts);

// Of both stages of a layer of its own sizes; empty where one has no plan.
[[nodiscard]] std::vector<StageShape> stage_shapes(
    const BttSizes& own, std::int64_t rows, int experts, const Device& device);

// Of the gradients of both cores; empty where one has no plan.
[[nodiscard]] std::vector<GradShape> gradient_shapes(
    const BttSizes& own, const Device& device);

// All kernels of both passes.
[[nodiscard]] std::vector<std::string> sources_of(
    const BttSizes& own, std::int64_t rows, int experts, const Device& device);

}  // namespace einforge::kernels::cuda::two_pass
