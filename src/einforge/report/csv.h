#pragma once

#include <string>
#include <vector>

#include "einforge/report/summary.h"
#include "einforge/scaling/analysis.h"

namespace einforge::report {

// All fields are quoted where they must be; text that a spreadsheet would take
// for a formula ("=...") gets a leading apostrophe.

// The ranking, one row per structure.
std::string ranking_csv(const Summary& summary);
std::string ranking_csv(const scaling::Analysis& analysis);

// The curves of all runs that did not diverge, as `einforge fit` reads them.
std::string points_csv(const std::vector<scaling::Run>& runs);

}  // namespace einforge::report
