#include "einforge/kernels/cuda/tensor_map.h"

namespace einforge::kernels::cuda {

cudaError_t encode_tensor_map(
    CUtensorMap* map,
    const __nv_bfloat16* data,
    int64_t token_stride,
    int64_t tokens,
    const TensorBox& box) {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found)
               : nullptr;
  }();
  if (function == nullptr) {
    return cudaErrorNotSupported;
  }
  const cuuint64_t sizes[3] = {
      static_cast<cuuint64_t>(box.columns),
      static_cast<cuuint64_t>(box.rows),
      static_cast<cuuint64_t>(tokens)};
  const cuuint64_t strides[2] = {
      static_cast<cuuint64_t>(box.columns) * 2,
      static_cast<cuuint64_t>(token_stride) * 2};
  const cuuint32_t extents[3] = {
      static_cast<cuuint32_t>(box.box_columns),
      static_cast<cuuint32_t>(box.box_rows),
      static_cast<cuuint32_t>(box.box_tokens)};
  const cuuint32_t steps[3] = {1, 1, 1};
  const int row_bytes = box.box_columns * 2;
  const CUtensorMapSwizzle swizzle =
      row_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
      : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
      : row_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                        : CU_TENSOR_MAP_SWIZZLE_NONE;
  const CUresult status = function(
      map,
      CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      3,
      const_cast<__nv_bfloat16*>(data),
      sizes,
      strides,
      extents,
      steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace einforge::kernels::cuda
