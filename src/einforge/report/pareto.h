#pragma once

#include <vector>

#include "einforge/report/summary.h"

namespace einforge::report {

// Of the objectives of the search (flops where its metadata name none), over
// the trials that ended.
ParetoSet pareto_set(
    const std::vector<TrialRecord>& trials, const base::Json& metadata);

// What a trial costs: flops and seconds of a token of training, memory and
// decode_ms as the search has noted them. NaN where it is not known.
double cost_of(
    const TrialRecord& record,
    const base::Json& metadata,
    const std::string& objective);

}  // namespace einforge::report
