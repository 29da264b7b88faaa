#pragma once

#include "einforge/base/json.h"
#include "einforge/report/summary.h"

namespace einforge::report {

// What the page's script reads (assets/tables.js): the report's numbers, less
// what a page has no room for. However large the search, this stays within a
// few megabytes: curves and frontiers are thinned, only some are kept, long
// texts are cut; "omitted" says what is missing.
base::Json page_data(const Summary& summary);

}  // namespace einforge::report
