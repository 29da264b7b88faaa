#pragma once

#include <torch/types.h>

// What the build can do on a tensor's device. A build without CUDA kernels has
// no_cuda.cpp in place of the other sources of this folder.
namespace einforge::ops {

// Whether the build has code that runs there, whatever its list of
// architectures. Elsewhere, on the CPU and on a GPU that is newer than the
// library, torch's own ways are taken.
bool architecture_supported(const torch::Tensor& tensor);

// Whether the current device is of sm_90 and the build has code for it.
bool is_hopper();

}  // namespace einforge::ops
