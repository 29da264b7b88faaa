#pragma once

#include <cstdint>
#include <vector>

#include "einforge/data/batch.h"
#include "einforge/data/teacher_shape.h"

namespace einforge::data {

// The synthetic regression task of arXiv 2410.02117: y = f(x), f a fixed
// random ReLU network, x standard normal. y is scaled to mean 0 and variance
// 1, so that a student that learns nothing has loss 1.
//
// Batches are pure functions of their arguments; no sample comes twice.
class Teacher {
 public:
  // `seed` fixes f. About 5 M weights by default, on `device`.
  explicit Teacher(
      std::uint64_t seed = 0,
      torch::Device device = torch::kCPU,
      const TeacherShape& shape = {});

  // @return x (batch_size, inputs) and y (batch_size, 1), float32, on the
  //         teacher's device
  Batch train_batch(
      std::int64_t batch_size, std::uint64_t seed, std::int64_t index) const;
  // Batch `index` of a fixed sequence that no train_batch draws from.
  Batch validation_batch(std::int64_t batch_size, std::int64_t index) const;

  // f(x) of x (batch, inputs), on the teacher's device: (batch, 1).
  torch::Tensor operator()(const torch::Tensor& x) const;

 private:
  Batch sample(std::int64_t batch_size, std::uint64_t stream) const;

  torch::Device device_;
  TeacherShape shape_;
  std::vector<torch::Tensor> weights_;  // (fan_in, fan_out)
  std::vector<torch::Tensor> biases_;   // (fan_out)
  double mean_ = 0;
  double deviation_ = 1;
};

}  // namespace einforge::data
