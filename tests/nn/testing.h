#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "einforge/nn/layer.h"

// What the tests of layers share.
namespace einforge::nn {

inline at::Generator generator(std::uint64_t seed = 0) {
  return at::detail::createCPUGenerator(seed);
}

inline std::map<std::string, Parameter> by_name(const Layer& module) {
  std::map<std::string, Parameter> parameters;
  for (const Parameter& parameter : module.trainable()) {
    parameters.emplace(parameter.name, parameter);
  }
  return parameters;
}

inline torch::Tensor wide(const torch::Tensor& t) {
  return t.detach().to(torch::kFloat64);
}

inline double rms(const torch::Tensor& t) {
  return wide(t).square().mean().sqrt().item<double>();
}

// gain M / max(1, rms(M) / cap) in float64, from its definition.
inline torch::Tensor capped(
    const torch::Tensor& core, const torch::Tensor& gain, double cap) {
  return wide(gain) * wide(core) / std::max(1.0, rms(core) / cap);
}

}  // namespace einforge::nn
