#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/bench/layers.h"

namespace einforge::bench {

struct Width {
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
};

// What to measure. Empty lists mean the suite's own.
struct Suite {
  // "layers": a few layers by all implementations. On CUDA the seven that the
  //   project's claims are about, 32,768 tokens; on the CPU monarch.
  // "paper": the 23 structures of the paper's sweep at 1024, 2048 and 4096; the
  //   15 of BTT against matmuls and dense, the others against torch.einsum too.
  // "decode": 1 to 64 tokens, forward only.
  // "moe": BTT-MoE of 16 experts, 2 of them active, at 1024, 2048 and 4096 with
  //   three routings, and a feed-forward MoE of 8 dense experts at 1024.
  // "widths": monarch and BTT-MoE at widths that are no powers of two.
  // "coverage": 41 shapes by seven structures, and mixtures of 4 to 128 experts
  //   with 1 to 8 active, what a user gets; dense once for each shape.
  std::string name = "layers";
  std::vector<std::string> structures;  // as structure::parse() takes them
  std::vector<Width> widths;
  std::vector<std::int64_t> tokens;
  std::vector<std::string> implementations;
};

// The layers of a suite.
//
// @throw base::InvalidInput for an unknown suite, and for a structure or width
//   that makes no layer
std::vector<LayerCase> layer_cases(const Suite& suite, bool cuda);

}  // namespace einforge::bench
