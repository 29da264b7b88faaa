#include "einforge/ops/peak_memory.h"

#include <cmath>

#include "tests/ops/testing.h"

namespace einforge {
namespace {

TEST(PeakMemory, IsNotCountedOnTheCpu) {
  const ops::UncountedMemory uncounted(torch::kCPU);
  EXPECT_TRUE(std::isnan(ops::peak_memory_bytes(torch::kCPU)));
}

TEST(PeakMemory, LeavesMeasurementsOut) {
  EINFORGE_NEEDS(torch::kCUDA);
  const torch::Device device(torch::kCUDA, 0);
  const auto bytes = [&](std::int64_t count) {
    return torch::empty({count}, torch::dtype(torch::kUInt8).device(device));
  };
  const auto kept = bytes(1 << 20);
  bytes(1 << 24);
  const double before = ops::peak_memory_bytes(device);
  EXPECT_GE(before, 1 << 24);
  {
    const ops::UncountedMemory uncounted(device);
    bytes(static_cast<std::int64_t>(before) + (1 << 26));
  }
  EXPECT_EQ(ops::peak_memory_bytes(device), before);
  bytes(static_cast<std::int64_t>(before) + (1 << 20));
  EXPECT_GT(ops::peak_memory_bytes(device), before);
}

}  // namespace
}  // namespace einforge
