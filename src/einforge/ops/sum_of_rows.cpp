#include "einforge/ops/sum_of_rows.h"

#include "einforge/ops/cuda/sum_of_rows.h"

namespace einforge::ops {

using torch::Tensor;

Tensor sum_of_rows(const Tensor& rows, torch::ScalarType dtype) {
  const bool graph = torch::GradMode::is_enabled() && rows.requires_grad();
  if (!graph && fused::takes_sum_of_rows(rows, dtype)) {
    return fused::sum_of_rows(rows, dtype);
  }
  return rows.reshape({-1, rows.size(-1)}).sum(0, /*keepdim=*/false, dtype);
}

}  // namespace einforge::ops
