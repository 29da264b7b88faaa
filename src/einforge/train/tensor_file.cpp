#include "einforge/train/tensor_file.h"

#include <torch/types.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "einforge/base/error.h"

namespace einforge::train {
namespace {

const std::pair<torch::ScalarType, const char*> kDtypes[] = {
    {torch::kFloat32, "F32"},
    {torch::kFloat64, "F64"},
    {torch::kBFloat16, "BF16"},
    {torch::kFloat16, "F16"},
    {torch::kInt64, "I64"},
    {torch::kUInt8, "U8"}};

torch::ScalarType dtype_of(const std::string& name) {
  for (const auto& [dtype, candidate] : kDtypes) {
    if (candidate == name) {
      return dtype;
    }
  }
  throw base::InvalidInput("safetensors: unsupported dtype '" + name + "'");
}

}  // namespace

std::string dtype_name(torch::ScalarType dtype) {
  for (const auto& [candidate, name] : kDtypes) {
    if (candidate == dtype) {
      return name;
    }
  }
  TORCH_CHECK(false, "[safetensors] dtype ", dtype, " has no file format");
}

torch::Tensor tensor_of(const base::TensorView& view) {
  // from_blob wants a mutable pointer.
  return torch::from_blob(
      const_cast<std::byte*>(view.data.data()),
      view.shape,
      dtype_of(view.dtype));
}

bool is_floating(const base::TensorView& view) {
  return view.dtype == "F32" || view.dtype == "F64" || view.dtype == "BF16" ||
         view.dtype == "F16";
}

base::TensorView view_of(const std::string& name, const torch::Tensor& tensor) {
  return {
      name,
      dtype_name(tensor.scalar_type()),
      tensor.sizes().vec(),
      {static_cast<const std::byte*>(tensor.const_data_ptr()),
       tensor.nbytes()}};
}

void save_tensors(
    const std::filesystem::path& path, const NamedTensors& tensors) {
  const torch::NoGradGuard no_grad;
  base::Safetensors content;
  content.metadata["format"] = "pt";
  std::vector<torch::Tensor> alive;
  for (const auto& [name, tensor] : tensors) {
    alive.push_back(tensor.detach().cpu().contiguous());
    content.tensors.push_back(view_of(name, alive.back()));
  }
  base::write_safetensors(path, content);
}

}  // namespace einforge::train
