#pragma once

#include <torch/types.h>

#include <optional>
#include <string>

namespace einforge::train {

// The device that "auto", "cpu", "cuda" or "cuda:N" means here. Throws
// base::InvalidInput when there is none such. Of several processes on a machine
// each has a `local_rank`, and the GPU of that number.
torch::Device resolve_device(
    const std::string& name, std::optional<int> local_rank = std::nullopt);

// The dtype of matmuls that "auto" (bfloat16 on CUDA, else float32),
// "float32" or "bfloat16" means there.
torch::ScalarType resolve_dtype(const std::string& name, torch::Device device);

// Runs what is in its scope in a dtype by autocast; float32 leaves all as it
// is.
class Autocast {
 public:
  Autocast(torch::Device device, torch::ScalarType dtype);
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;
  ~Autocast();

 private:
  torch::DeviceType device_;
  bool active_;
  bool was_enabled_ = false;
  bool cached_ = false;
  torch::ScalarType was_dtype_ = torch::kFloat32;
};

// The most that tensors of this process took on the device at once; NaN for a
// CPU.
double peak_memory_bytes(torch::Device device);

// FLOP/s of a large square matmul in this dtype, the best of several: what
// MFU is a share of. Measured, because a machine's nominal peak says little
// about a shared or throttled one. Takes about 0.1 s.
double measure_peak_flops(torch::Device device, torch::ScalarType dtype);

}  // namespace einforge::train
