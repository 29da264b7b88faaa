#pragma once

#include <vector>

#include "einforge/report/summary.h"

namespace einforge::report {

// Of a search that noted what it expected (its metadata); else empty. Trials
// that diverged or failed have no loss to compare.
Expectations expectations_of(
    const std::vector<TrialRecord>& trials, const base::Json& metadata);

}  // namespace einforge::report
