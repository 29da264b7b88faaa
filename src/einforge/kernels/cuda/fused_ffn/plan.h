#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "einforge/kernels/cuda/btt_sizes.h"
#include "einforge/kernels/cuda/fused_ffn/params.h"
#include "einforge/kernels/cuda/two_pass/plan.h"

// Which feed-forward networks of two block-tensor-train layers have kernels,
// and their source; needs no GPU. docs/design/fused_ffn.md.
namespace einforge::kernels::cuda::fused_ffn {

// Of the layer into the hidden features and the one out of them.
struct FfnSizes {
  BttSizes in;
  BttSizes out;
};

// The kernel of the forward pass; none where the hidden features of both layers
// are cut otherwise, or something does not fit.
[[nodiscard]] std::optional<FfnShape> forward_shape(
    const FfnSizes& sizes, const two_pass::Device& device);

// The kernel of the middle of the backward pass.
[[nodiscard]] std::optional<MiddleShape> middle_shape(
    const FfnSizes& sizes, const two_pass::Device& device);

// The translation unit of a kernel, whose name is two_pass::kKernelName.
[[nodiscard]] std::string source_of(const FfnShape& shape);
[[nodiscard]] std::string source_of(const MiddleShape& shape);

}  // namespace einforge::kernels::cuda::fused_ffn
