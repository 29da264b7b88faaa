#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/ledger.h"
#include "einforge/search/space.h"

// What a search found is the best of many, and so in part the luckiest. Its
// best are trained again, on seeds that chose nothing, beside the baseline.
namespace einforge::search {

// The search that confirms another, in its folder "confirm".
struct Confirmation {
  SearchConfig config;
  // The baseline's first.
  std::vector<Proposal> proposals;
  std::size_t looked_at = 0;  // trials that the search had to choose from
};

// The `confirm.top` structures of the highest multipliers over the baseline
// among trials that ended, each at its best size and learning rate, and the
// baseline at its best: on `confirm.seeds` seeds that the search has not used,
// at that width and at the next larger one (of the search, or twice as wide).
// Empty where the baseline or all others did not end.
Confirmation confirmation(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Ledger& ledger);

// "monarch reaches the loss of dense with 1.52 times less compute (95%: 1.31 to
// 1.77; 4 runs on fresh seeds, widths 64 and 128); best of 420 trials looked
// at". Of several structures each has its sentence, the best first. Empty where
// too few runs ended.
std::string confirmed(const Confirmation& confirmation, Ledger& ledger);

}  // namespace einforge::search
