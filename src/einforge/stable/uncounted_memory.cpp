#include "einforge/ops/peak_memory.h"

namespace einforge::ops {

// Who uses Python reads torch's own count.
UncountedMemory::UncountedMemory(torch::Device device) : device_(device) {}
UncountedMemory::~UncountedMemory() = default;

}  // namespace einforge::ops
