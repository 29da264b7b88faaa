#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/models/config.h"
#include "einforge/search/config.h"

namespace einforge::search {

// What a model's layers are: one structure for all, or some kinds of layer with
// their own.
struct Choice {
  std::string name;  // a structure, or "qkv=btt:0.25 ffn_in=monarch"
  double rate = 0;   // of its own; 0: the axis's
  models::StructureConfig layers;
};

// The structures as specs: "paper_sweep" and "random:N" expanded, duplicates
// dropped, each normalised, with its "@RATE" where it has one. Throws
// base::InvalidInput for an unknown one.
std::vector<std::string> expand_structures(
    const std::vector<std::string>& structures, std::uint64_t seed);

// The structures of a search for whole models, families with ranges replaced by
// their members, and then the combinations of [space] or the draw of them.
// Throws base::InvalidInput that names the key.
std::vector<Choice> choices_of(const SearchConfig& config);

}  // namespace einforge::search
