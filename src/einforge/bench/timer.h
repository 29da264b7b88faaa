#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace einforge::bench {

// Milliseconds of calls on the device: by events on CUDA, each after its L2
// cache was overwritten; by the clock on the CPU.
class Timer {
 public:
  explicit Timer(torch::Device device);

  // Of each of `calls`, at least one. On CUDA the host waits for the last one
  // alone.
  std::vector<double> milliseconds(
      const std::function<void()>& work, std::int64_t calls);
  double milliseconds(const std::function<void()>& work) {
    return milliseconds(work, 1).front();
  }

 private:
  torch::Device device_;
  torch::Tensor flush_;  // larger than any L2 cache; CUDA only
};

struct Times {
  double median = 0;
  double min = 0;
  // (90th percentile - 10th) / median.
  double spread = 0;
};
// @param milliseconds not empty
Times summarise(std::vector<double> milliseconds);

// What the device can do, measured now.
struct Ceilings {
  double flops = 0;      // FLOP/s of a large square matmul in this dtype
  double bandwidth = 0;  // bytes/s read + written by a large copy
};
Ceilings measure_ceilings(
    torch::Device device, torch::ScalarType dtype, Timer& timer);

// What the ceilings allow this work, in milliseconds.
double limit_ms(const Ceilings& ceilings, double flops, double bytes);

}  // namespace einforge::bench
