#include "einforge/ops/cuda/embedding.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/types.h>

#include <limits>

#include "einforge/kernels/cuda/embedding.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {

namespace ek = kernels::cuda;
using torch::Tensor;

namespace {

template <typename Index>
void run(
    const Tensor& weight,
    const Tensor& index,
    const Tensor& position,
    const Tensor& y) {
  C10_CUDA_CHECK(ek::embedding<Index>(
      {.token = weight.const_data_ptr<float>(),
       .position = position.const_data_ptr<float>(),
       .index = index.const_data_ptr<Index>(),
       .tokens = weight.size(0),
       .rows = index.numel(),
       .time = static_cast<int>(position.size(0)),
       .width = static_cast<int>(weight.size(1))},
      y.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream()));
}

}  // namespace

bool takes_embedding(
    const Tensor& weight, const Tensor& index, const Tensor& position) {
  const auto takes = [&](const Tensor& table) {
    return table.scalar_type() == torch::kFloat32 && table.dim() == 2 &&
           table.size(0) <= std::numeric_limits<int>::max() &&
           table.size(1) == weight.size(1) && table.device() == index.device();
  };
  return architecture_supported(index) && index.numel() > 0 &&
         (index.scalar_type() == torch::kInt64 ||
          index.scalar_type() == torch::kInt32) &&
         takes(weight) && takes(position) &&
         index.size(-1) == position.size(0) &&
         ek::embedding_supports(weight.size(1));
}

Tensor embedding(
    const Tensor& weight, const Tensor& index, const Tensor& position) {
  const c10::cuda::CUDAGuard device(index.device());
  const Tensor tokens = btt::aligned(weight.contiguous());
  const Tensor places = btt::aligned(position.contiguous());
  const Tensor indices = index.contiguous();
  auto sizes = index.sizes().vec();
  sizes.push_back(weight.size(1));
  Tensor y = torch::empty(sizes, tokens.options());
  if (index.scalar_type() == torch::kInt64) {
    run<std::int64_t>(tokens, indices, places, y);
  } else {
    run<std::int32_t>(tokens, indices, places, y);
  }
  return y;
}

}  // namespace einforge::ops::fused
