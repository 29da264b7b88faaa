#pragma once

#include <string>

#include "einforge/report/summary.h"

namespace einforge::report {

// The ranking as a table for a terminal, with a line a note below it: what
// `einforge search` and `einforge report` end with.
std::string ranking_table(const Summary& summary);

// The fits as a table: what `einforge fit` prints.
std::string fit_table(const scaling::Analysis& analysis);

}  // namespace einforge::report
