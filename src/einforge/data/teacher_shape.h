#pragma once

#include <cstdint>

namespace einforge::data {

// The network that the synthetic regression task learns from.
struct TeacherShape {
  static constexpr std::int64_t kOutputs = 1;

  std::int64_t inputs = 8;
  std::int64_t width = 1024;
  std::int64_t layers = 6;  // linear layers, ReLU between them
  // Standard deviation of the biases. Small against the activations, whose
  // variance He's initialisation keeps near 1, but enough that the function is
  // not merely a function of x / |x| times |x|.
  double bias_std = 0.1;
};

}  // namespace einforge::data
