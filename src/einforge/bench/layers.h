#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "einforge/base/json.h"

namespace einforge::bench {

struct Width {
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
};

struct LayersOptions {
  // As structure::parse() takes them.
  std::vector<std::string> structures;
  std::vector<Width> widths;
  std::int64_t tokens = 2048;
  torch::Device device = torch::kCPU;
  torch::ScalarType dtype = torch::kFloat32;
  // Rounds; in each, every implementation runs once.
  std::int64_t repeats = 15;
};

// Times linear layers without bias, structured against dense.
//
// @param progress called with what is about to be measured
// @return {device: {...}, rows: [...]}; a row for each structure, width, pass
//   ("forward", "forward_backward": gradients of x and weights) and
//   implementation: "dense" is torch's linear layer of the same shape,
//   "einforge" is what a user gets, then each kernel by its name, and "einsum"
//   is torch.einsum. `ratio_to_dense` is dense's median / this one's median.
// @throw base::InvalidInput for a structure or width that makes no layer
base::Json measure_layers(
    const LayersOptions& options,
    const std::function<void(const std::string&)>& progress);

// The rows as a table for people.
std::string to_table(const base::Json& report);

}  // namespace einforge::bench
