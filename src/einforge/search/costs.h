#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/objective.h"
#include "einforge/search/space.h"
#include "einforge/store/store.h"
#include "einforge/structure/structure.h"

namespace einforge::search {

// What is known of a kind of model before it trains; NaN where it is not.
struct ModelCosts {
  // Bytes of a training step: measured on a GPU, else estimated_memory().
  double memory = std::numeric_limits<double>::quiet_NaN();
  // Milliseconds of one token's forward pass through all linear layers, one
  // after the other; attention, norms and biases are left out.
  double decode_ms = std::numeric_limits<double>::quiet_NaN();

  double at(Cost cost) const {
    return cost == Cost::kMemory ? memory : decode_ms;
  }
};
// By kind_of().
using CostTable = std::map<std::string, ModelCosts>;

// An objective or a constraint of the search is of this cost.
bool weighs(const SearchConfig& config, Cost cost);

// Bytes of a training step in float32 in each of `processes` that share the
// batch: 16 for each parameter (its value, its gradient and Adam's two
// moments), and what the backward pass keeps of a micro-batch: for each token
// inputs and outputs of the linear layers, the residual stream before each
// norm, and four of the output's size, at most 2^27 numbers each, for the loss.
// Operands of a moment are left out.
double estimated_memory(const Proposal& proposal, std::int64_t processes = 1);

// A linear layer and how many of it a token passes.
struct DecodeLayer {
  structure::Structure layer;
  double count = 1;
  std::string key;  // of what decides its time: "monarch 64x256"
};
// Both matrices of a mixture of whole FFNs are one.
std::vector<DecodeLayer> decode_layers(const Proposal& proposal);

// The sum over decode_layers(); NaN where a time is missing.
double decode_milliseconds(
    const Proposal& proposal, const std::map<std::string, double>& times);

// In the store: times of layers by their keys, and costs.
std::map<std::string, double> read_layer_times(const store::Store& store);
void write_layer_times(
    store::Store& store, const std::map<std::string, double>& times);
CostTable read_costs(const store::Store& store);
void write_costs(store::Store& store, const CostTable& costs);

// Takes out the proposals that break a constraint of the search. One whose cost
// is not known stays.
// Returns a sentence on them for the report: "24 of 96 trials were not trained:
// memory <= 40 GB leaves out 24."; "" without constraints.
// Throws base::InvalidInput where none is left.
std::string apply_constraints(
    const SearchConfig& config,
    const CostTable& costs,
    std::vector<Proposal>& proposals);

}  // namespace einforge::search
