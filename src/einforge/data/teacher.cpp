#include "einforge/data/teacher.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>

#include <cmath>
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/base/random.h"

namespace einforge::data {
namespace {

// Large enough that mean and variance are known to about 1%.
constexpr std::int64_t kNormalisationSamples = 8192;

torch::Tensor normal(
    base::Random& random, at::IntArrayRef sizes, double deviation) {
  // Not torch's generator: the teacher is the same on every platform.
  torch::Tensor tensor = torch::empty(sizes, torch::kFloat32);
  auto* values = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    values[i] = static_cast<float>(deviation * random.normal());
  }
  return tensor;
}

std::uint64_t stream_seed(
    std::string_view name, std::uint64_t seed, std::int64_t index) {
  const std::string_view key(
      reinterpret_cast<const char*>(&index), sizeof(index));
  return base::hash64(key, base::hash64(name, seed));
}

}  // namespace

Teacher::Teacher(
    std::uint64_t seed, torch::Device device, const TeacherShape& shape)
    : device_(device), shape_(shape) {
  base::check(
      shape.inputs > 0 && shape.width > 0 && shape.layers > 0,
      "[teacher] expected inputs, width and layers above 0; got {}, {}, {}",
      shape.inputs,
      shape.width,
      shape.layers);
  base::Random random(stream_seed("teacher", seed, 0));
  std::int64_t fan_in = shape.inputs;
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::int64_t fan_out =
        layer + 1 < shape.layers ? shape.width : TeacherShape::kOutputs;
    const double deviation = std::sqrt(2.0 / static_cast<double>(fan_in));
    weights_.push_back(normal(random, {fan_in, fan_out}, deviation).to(device));
    biases_.push_back(normal(random, {fan_out}, shape.bias_std).to(device));
    fan_in = fan_out;
  }
  const torch::Tensor y =
      sample(kNormalisationSamples, stream_seed("normalise", seed, 0)).y;
  mean_ = y.mean().item<double>();
  deviation_ = y.std().item<double>();
}

torch::Tensor Teacher::operator()(const torch::Tensor& x) const {
  const torch::NoGradGuard no_grad;
  // Targets are float32 even where the student computes in bfloat16.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      c10::autocast_dispatch_keyset);
  torch::Tensor y = x;  // (batch, inputs)
  for (std::size_t layer = 0; layer < weights_.size(); ++layer) {
    y = torch::addmm(biases_[layer], y, weights_[layer]);  // (batch, fan_out)
    if (layer + 1 < weights_.size()) {
      y.relu_();
    }
  }
  return (y - mean_) / deviation_;  // (batch, 1)
}

Batch Teacher::sample(std::int64_t batch_size, std::uint64_t stream) const {
  base::Random random(stream);
  const torch::Tensor x =
      normal(random, {batch_size, shape_.inputs}, 1.0).to(device_);
  return {x, (*this)(x)};
}

Batch Teacher::train_batch(
    std::int64_t batch_size, std::uint64_t seed, std::int64_t index) const {
  return sample(batch_size, stream_seed("train", seed, index));
}

Batch Teacher::validation_batch(
    std::int64_t batch_size, std::int64_t index) const {
  return sample(batch_size, stream_seed("validation", 0, index));
}

}  // namespace einforge::data
