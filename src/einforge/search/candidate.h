#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/costs.h"
#include "einforge/search/space.h"

namespace einforge::search {

// What the model of a search knows of a trial before it trains.
struct Candidate {
  // Per kind of layer alpha, epsilon and rho as realised, the logarithms of
  // experts and active experts, omega and psi; the logarithms of parameters,
  // MACs per token, width, layers and learning rate. Each over the range that
  // it has among the candidates, so from 0 to 1; what is the same for all, or
  // for all kinds of layers, is there once or not at all.
  std::vector<double> features;
  // How many of them, the first, are of its layers' structures, and how many
  // after those of its size; the rest is the learning rate.
  std::size_t of_structure = 0;
  std::size_t of_size = 0;
  // Trials of one kind run at about one speed.
  int kind = 0;
  // Of the structure that multipliers are over.
  bool baseline = false;
  bool buildable = true;
  // FLOP/s of training it as they were measured before it trained; 0: unknown.
  double speed = 0;
  ModelCosts costs;
  double width = 1;
  double omega = 0;  // means over the layers
  double psi = 1;
  // At the ends of the rungs.
  std::vector<double> tokens;
  std::vector<double> flops;
};

// The structure that multipliers are over: dense where there is any, else that
// of the first proposal that can be built.
std::string baseline_of(const std::vector<Proposal>& proposals);

// Beside the proposals; `speeds` and `costs` by kind_of(), as far as known.
std::vector<Candidate> candidates_of(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const std::map<std::string, double>& speeds = {},
    const CostTable& costs = {});

}  // namespace einforge::search
