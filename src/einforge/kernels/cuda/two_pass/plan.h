#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/kernels/cuda/two_pass/params.h"

// Which kernels a block-tensor-train layer of any size runs on in two passes,
// one for each stage, with z in memory between them; docs/design/plans.md.
namespace einforge::kernels::cuda::two_pass {

// What a kernel may use.
struct Device {
  int multiprocessors = 132;
  int shared_bytes = 232448;  // of a block
};

// One batched product, out[t, c, b] = sum_k in[t, k, b] W[b, k, c].
struct StageProblem {
  int batch = 8;
  int depth = 1;
  int rho = 1;
  int columns = 1;
  bool in_slabs = false;
  int64_t rows = 1;
  int experts = 1;
  // StageShape::width that is wanted with in_slabs; a shape without it costs a
  // copy.
  int width = 0;
};

// Whether a kernel of this shape can be built and run.
[[nodiscard]] bool is_legal(const StageShape& shape, const Device& device);

// Predicted clocks of one multiprocessor.
[[nodiscard]] double cost(
    const StageShape& shape, const StageProblem& problem, const Device& device);

// The legal shapes, the cheapest first, at most `most`; not empty.
[[nodiscard]] std::vector<StageShape> propose(
    const StageProblem& problem, const Device& device, std::size_t most);

// The gradient of a core, grad[b, m, (r, n)]; batch and columns are multiples
// of 8.
struct GradProblem {
  int batch = 8;
  int rows = 1;
  int rho = 1;
  int columns = 8;
};

[[nodiscard]] std::vector<GradShape> propose(
    const GradProblem& problem, const Device& device, std::size_t most);

// How many parts of the tokens have sums of their own.
[[nodiscard]] int splits_of(
    const GradShape& shape, int64_t rows, const Device& device);

// The translation unit of a kernel, whose name is kKernelName.
inline constexpr const char* kKernelName = "einforge_two_pass";
[[nodiscard]] std::string source_of(const StageShape& shape);
[[nodiscard]] std::string source_of(const GradShape& shape);

}  // namespace einforge::kernels::cuda::two_pass
