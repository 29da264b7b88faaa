#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/store/store.h"
#include "einforge/train/config.h"

namespace einforge::search {

// A trial before it runs: what it would train and what that costs.
struct Proposal {
  train::TrainConfig config;
  // As it goes into the store; `status` is kFailed where the model cannot be
  // built, and `reason` says why.
  store::Trial trial;
  // See SchedulerConfig::within.
  std::string group;
  // Of the whole budget: forward + backward over config.steps.
  double flops = 0;
  std::int64_t tokens = 0;
  std::int64_t parameters = 0;
  // Structures of the search that make the same models at all its sizes, and
  // so are not trained themselves: "theta:..." beside "monarch".
  std::vector<std::string> aliases;
};

// Trials of one kind run at about one speed: "monarch gpt d128 L2".
std::string kind_of(const store::Trial& trial);
std::string kind_of(const Proposal& proposal);

// Every trial of the space (grid, halving) or a draw from it (random), without
// duplicates; cheapest first for one worker, most expensive first for several,
// so that they end together.
// Throws base::InvalidInput for a bad config, and where not one trial can be
// built, with the reason of the first.
std::vector<Proposal> propose(const SearchConfig& config);

// The trial of a proposal at another width and with another seed, to the same
// budget.
Proposal again(
    const SearchConfig& config,
    const Proposal& proposal,
    std::int64_t width,
    std::uint64_t seed);

// What a user should know of them before a long wait, one line each.
struct Notes {
  std::string failures;  // trials that cannot be built, and why; may be empty
  std::string aliases;   // structures that are not trained; may be empty
};
Notes notes_on(const std::vector<Proposal>& proposals);

}  // namespace einforge::search
