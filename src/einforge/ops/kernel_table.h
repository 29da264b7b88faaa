#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

#include "einforge/structure/structure.h"

// How a device's implementation of einsum_linear chooses its kernel: the
// first of an ordered table that supports and prefers the problem; the table
// ends in a reference that takes everything. `EINFORGE_KERNEL=name` forces one,
// `EINFORGE_LOG_KERNELS=1` prints each choice to standard error.
namespace einforge::ops {

enum class Pass { kForward, kBackward };

// All that the choice may depend on, and so the key of a measured choice.
struct EinsumLinearProblem {
  structure::Sizes sizes;
  std::int64_t tokens = 0;
  torch::ScalarType dtype = torch::kFloat32;
  torch::DeviceType device = torch::kCPU;
  Pass pass = Pass::kForward;

  // "cpu float32 forward 2048 x (32,1,32 -> 1,32,32; 1)".
  std::string to_string() const;
};

// Gradients of x, core_a, core_b and bias; undefined where not asked for.
struct EinsumLinearGradients {
  torch::Tensor x;
  torch::Tensor core_a;
  torch::Tensor core_b;
  torch::Tensor bias;
};

// Which gradients to compute, in the order of EinsumLinearGradients.
using GradientMask = std::array<bool, 4>;

// A row of the table. `x` and `grad` arrive as contiguous (tokens, features),
// tokens > 0; everything is validated.
struct EinsumLinearKernel {
  std::string_view name;
  bool (*supports)(const EinsumLinearProblem& problem);
  torch::Tensor (*forward)(
      const EinsumLinearProblem& problem,
      const torch::Tensor& x,
      const torch::Tensor& core_a,
      const torch::Tensor& core_b,
      const std::optional<torch::Tensor>& bias);
  EinsumLinearGradients (*backward)(
      const EinsumLinearProblem& problem,
      const torch::Tensor& grad,
      const torch::Tensor& x,
      const torch::Tensor& core_a,
      const torch::Tensor& core_b,
      const GradientMask& mask);
  // Whether a problem that is supported is better taken here than by the rows
  // below; null is always. Not asked of a kernel that is forced by name.
  bool (*preferred)(const EinsumLinearProblem& problem) = nullptr;
};

// @throw c10::Error when a kernel is forced that the table lacks or that does
//   not support the problem
const EinsumLinearKernel& choose(
    std::span<const EinsumLinearKernel> table,
    const EinsumLinearProblem& problem);

// Validates, flattens x to (tokens, d_in), chooses and runs: what the CPU and
// the CUDA implementation of the operators share.
torch::Tensor run_forward(
    std::span<const EinsumLinearKernel> table,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const std::optional<torch::Tensor>& bias);
std::tuple<torch::Tensor, torch::Tensor, torch::Tensor, torch::Tensor>
run_backward(
    std::span<const EinsumLinearKernel> table,
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& core_a,
    const torch::Tensor& core_b,
    const GradientMask& mask);

// The table of a device, for benchmarks and tests.
std::span<const EinsumLinearKernel> cpu_kernels();
std::span<const EinsumLinearKernel> cuda_kernels();

// Forces a kernel by name for the whole process while it lives, in place of
// EINFORGE_KERNEL. Not for concurrent use.
class ForcedKernel {
 public:
  explicit ForcedKernel(std::string name);
  ForcedKernel(const ForcedKernel&) = delete;
  ForcedKernel& operator=(const ForcedKernel&) = delete;
  ~ForcedKernel();

 private:
  std::string previous_;
};

}  // namespace einforge::ops
