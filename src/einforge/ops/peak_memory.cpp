#include "einforge/ops/peak_memory.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <unordered_map>

namespace einforge::ops {
namespace {

// Peaks before the last measurement, by device: torch's own starts again then.
struct Peaks {
  std::mutex mutex;
  std::unordered_map<torch::Device, std::int64_t> bytes;

  static Peaks& all() {
    static Peaks peaks;
    return peaks;
  }
};

std::int64_t since_reset(torch::Device device) {
  using c10::CachingAllocator::StatType;
  const auto stats =
      c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<std::size_t>(StatType::AGGREGATE)]
      .peak;
}

}  // namespace

double peak_memory_bytes(torch::Device device) {
  if (device.is_cpu()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  Peaks& peaks = Peaks::all();
  const std::lock_guard lock(peaks.mutex);
  return static_cast<double>(
      std::max(peaks.bytes[device], since_reset(device)));
}

void restart_peak_memory(torch::Device device) {
  if (!device.is_cpu()) {
    Peaks& peaks = Peaks::all();
    const std::lock_guard lock(peaks.mutex);
    peaks.bytes[device] = 0;
    // There is none before the device's first tensor.
    if (c10::DeviceAllocator* allocator =
            c10::getDeviceAllocator(device.type());
        allocator->initialized()) {
      allocator->resetPeakStats(device.index());
    }
  }
}

UncountedMemory::UncountedMemory(torch::Device device) : device_(device) {
  if (!device.is_cpu()) {
    Peaks& peaks = Peaks::all();
    const std::lock_guard lock(peaks.mutex);
    std::int64_t& bytes = peaks.bytes[device];
    bytes = std::max(bytes, since_reset(device));
  }
}

UncountedMemory::~UncountedMemory() {
  if (!device_.is_cpu()) {
    c10::getDeviceAllocator(device_.type())->resetPeakStats(device_.index());
  }
}

}  // namespace einforge::ops
