#pragma once

#include <filesystem>
#include <string>

#include "einforge/base/safetensors.h"
#include "einforge/train/adamw.h"

// Torch tensors in safetensors files.
namespace einforge::train {

// "F32" of torch::kFloat32, ... Throws c10::Error for a dtype without a name.
std::string dtype_name(torch::ScalarType dtype);

// A tensor of a file; it shares the file's bytes and must not be written to.
// Throws base::InvalidInput for a dtype that Torch and einforge have no name
// of.
torch::Tensor tensor_of(const base::TensorView& view);

// Whether tensor_of() takes such a dtype and it is a floating one.
bool is_floating(const base::TensorView& view);

// The view of a tensor on the CPU in the row-major order of its indices. It
// points into the tensor.
base::TensorView view_of(const std::string& name, const torch::Tensor& tensor);

// Writes and syncs a file with each tensor in the row-major order of its
// indices.
void save_tensors(
    const std::filesystem::path& path, const NamedTensors& tensors);

}  // namespace einforge::train
