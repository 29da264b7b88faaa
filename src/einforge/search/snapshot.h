#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/display.h"
#include "einforge/search/ledger.h"
#include "einforge/search/space.h"

namespace einforge::search {

// How far a worker is with its trial.
struct WorkerProgress {
  std::string trial;  // empty: none
  std::int64_t step = 0;
  std::int64_t target = 0;
  double loss = NAN;
  // Of the first step reported, to know its speed.
  std::int64_t first_step = -1;
  std::chrono::steady_clock::time_point started;
};

// What the display shows, but for the time elapsed.
Snapshot take_snapshot(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const Ledger& ledger,
    const std::vector<WorkerProgress>& workers);

}  // namespace einforge::search
