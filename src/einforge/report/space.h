#pragma once

#include <optional>
#include <vector>

#include "einforge/report/summary.h"

namespace einforge::report {

// Only what differs between the trials that count.
Space space_of(const std::vector<TrialRecord>& trials);

// What of the space decides ln loss at the end of a whole budget: from the last
// loss of each trial, how far it went being an axis too. None where trials are
// fewer than 12 or differ in nothing.
std::optional<SpaceImportances> importances_of(
    const Space& space, const std::vector<TrialRecord>& trials);

}  // namespace einforge::report
