#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/bench/rows.h"
#include "einforge/structure/structure.h"

namespace einforge::bench {

// A linear layer without bias to be timed.
struct LayerCase {
  structure::Structure layer;
  std::int64_t tokens = 0;
  std::vector<Pass> passes{Pass::kForward, Pass::kForwardBackward};
  // Names to measure; empty: all.
  std::vector<std::string> implementations;
  // Of a mixture of experts: "uniform", "zipf" or "one_expert".
  std::string routing = "uniform";
  // Compare with the dense layer of an earlier case of this shape.
  bool share_dense = false;
};

// Throws base::InvalidInput for a name that no implementation has, of any
// layer on this device.
void check_implementations(const std::vector<std::string>& names, bool cuda);

// Times structured layers against dense.
//
// @param progress called with what is about to be measured
// @param keep called with all rows so far, after each layer
// @return rows as rows.h has them, with structure, sizes (alpha, beta, gamma,
//   delta, epsilon, phi, rho), d_in, d_out, rank, tokens and dtype.
//   Implementations: "dense" is torch's linear layer of the same shape,
//   "einforge" is what a user gets, then each kernel by its name, and "einsum"
//   is torch.einsum, contracted in the cheaper order. Without a backward pass
//   there is "inference" too: what a user gets from a layer that may merge its
//   cores. mixtures.h says what a mixture of experts has. What fails has a row
//   with `error`.
base::Json measure_layers(
    const std::vector<LayerCase>& cases,
    Machine& machine,
    const std::function<void(const std::string&)>& progress,
    const std::function<void(const base::Json&)>& keep = nullptr);

}  // namespace einforge::bench
