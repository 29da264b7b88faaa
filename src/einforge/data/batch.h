#pragma once

#include <torch/types.h>

namespace einforge::data {

// Inputs and what the model should say to them.
struct Batch {
  torch::Tensor x;
  torch::Tensor y;
};

}  // namespace einforge::data
