#pragma once

#include <torch/types.h>

// How many bytes of tensors a device has held at most, without those of
// measurements: the tuner's operands (cuda/btt_tuner.h) are none of a model's.
namespace einforge::ops {

// @return NaN on the CPU, where torch does not count
double peak_memory_bytes(torch::Device device);

// Forgets what was held before, but not what is held now.
void restart_peak_memory(torch::Device device);

// What is allocated and freed while it lives does not count.
class UncountedMemory {
 public:
  explicit UncountedMemory(torch::Device device);
  UncountedMemory(const UncountedMemory&) = delete;
  UncountedMemory& operator=(const UncountedMemory&) = delete;
  ~UncountedMemory();

 private:
  torch::Device device_;
};

}  // namespace einforge::ops
