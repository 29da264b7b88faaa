#pragma once

#include <string>

#include "einforge/base/json.h"
#include "einforge/report/summary.h"

namespace einforge::report {

// {"baseline", "trials": [...], "ranking": [...], "fits": {"flops", "seconds"},
// "bootstrap", "metadata"}; docs/report.md lists the keys. What is not known is
// null, with a reason beside it.
base::Json to_json(const Summary& summary);

// One analysis; the "fits" entries above and what `einforge fit --json` prints.
base::Json to_json(const scaling::Analysis& analysis);

// Text of JSON whatever bytes its strings hold.
std::string dump(const base::Json& json, int indent = 2);

// The ranking, one row a structure.
std::string ranking_csv(const Summary& summary);
std::string ranking_csv(const scaling::Analysis& analysis);

// All curves in the format that `einforge fit` reads.
std::string points_csv(const std::vector<scaling::Run>& runs);

}  // namespace einforge::report
