#include "einforge/ops/cuda/sum_of_rows.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "einforge/kernels/cuda/column_sums.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {

namespace ek = kernels::cuda;
using torch::Tensor;

bool takes_sum_of_rows(const Tensor& rows, torch::ScalarType dtype) {
  return rows.scalar_type() == torch::kBFloat16 && rows.numel() > 0 &&
         architecture_supported(rows) &&
         (dtype == torch::kFloat32 || dtype == torch::kBFloat16) &&
         ek::column_sums_supports(rows.size(-1));
}

Tensor sum_of_rows(const Tensor& given, torch::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(given.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto width = static_cast<int>(given.size(-1));
  const Tensor rows = btt::aligned(given.contiguous());
  const std::int64_t number = rows.numel() / width;
  const Tensor partials = btt::workspace(rows, ek::column_sums_bytes(width));
  void* space = partials.mutable_data_ptr();
  Tensor sum = torch::empty({width}, rows.options().dtype(dtype));
  C10_CUDA_CHECK(
      dtype == torch::kFloat32 ? ek::column_sums(
                                     btt::data(rows),
                                     number,
                                     width,
                                     space,
                                     sum.mutable_data_ptr<float>(),
                                     stream)
                               : ek::column_sums(
                                     btt::data(rows),
                                     number,
                                     width,
                                     space,
                                     btt::mutable_data(sum),
                                     stream));
  return sum;
}

}  // namespace einforge::ops::fused
