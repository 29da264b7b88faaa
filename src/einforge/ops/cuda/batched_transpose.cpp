#include "einforge/ops/cuda/batched_transpose.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

#include "einforge/kernels/cuda/batched_transpose.h"
#include "einforge/ops/cuda/device.h"

namespace einforge::ops::fused {

using kernels::cuda::BatchedTransposeShape;
using torch::Tensor;

namespace {

// Whether our own kernel takes the copy; torch's takes any, and longer.
bool can_transpose(const BatchedTransposeShape& shape, const Tensor& from) {
  return architecture_supported(from) && from.is_contiguous() &&
         shape.inner > 1 &&
         reinterpret_cast<std::uintptr_t>(from.const_data_ptr()) % 16 == 0 &&
         kernels::cuda::batched_transpose_supports(
             shape, static_cast<int>(from.element_size()));
}

}  // namespace

Tensor to_batches(const BatchedTransposeShape& shape, const Tensor& rows) {
  if (!can_transpose(shape, rows)) {
    return {};
  }
  Tensor batches = torch::empty_like(rows);
  C10_CUDA_CHECK(kernels::cuda::rows_to_batches(
      shape,
      static_cast<int>(rows.element_size()),
      rows.const_data_ptr(),
      batches.mutable_data_ptr(),
      c10::cuda::getCurrentCUDAStream()));
  return batches;
}

Tensor to_rows(const BatchedTransposeShape& shape, const Tensor& batches) {
  if (!can_transpose(shape, batches)) {
    return {};
  }
  Tensor rows = torch::empty({shape.tokens, shape.row()}, batches.options());
  C10_CUDA_CHECK(kernels::cuda::batches_to_rows(
      shape,
      static_cast<int>(batches.element_size()),
      batches.const_data_ptr(),
      rows.mutable_data_ptr(),
      c10::cuda::getCurrentCUDAStream()));
  return rows;
}

}  // namespace einforge::ops::fused
