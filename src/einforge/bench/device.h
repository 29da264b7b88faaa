#pragma once

#include <torch/types.h>

#include "einforge/base/json.h"

namespace einforge::bench {

// What it is: type, name and, on CUDA, versions, clocks and memory; on the
// CPU threads and instruction set.
base::Json describe_device(torch::Device device);

// Gives unused memory of torch's allocator back to the device.
void free_memory(torch::Device device);

}  // namespace einforge::bench
