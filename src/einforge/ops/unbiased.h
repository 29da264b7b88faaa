#pragma once

#include <torch/types.h>

namespace einforge::ops {

// What a linear layer gives, y + bias, with the bias still to be added by what
// comes next, which has the gradient of y in passing and with it the bias's.
struct Unbiased {
  torch::Tensor y;     // (..., d_out)
  torch::Tensor bias;  // (d_out), or undefined: nothing is to be added
};

}  // namespace einforge::ops
