#pragma once

#include <string>
#include <vector>

#include "einforge/base/json.h"

namespace einforge::report {

struct Summary;

// What to know before quoting anything of a report, a sentence each: what the
// scheduler left out, trials that are missing, one learning rate for all, a
// best rate at the end of those tried, runs too short to compare, a busy
// machine.
std::vector<std::string> notices(const Summary& summary);

// Whether other programs took so much of the machine while the search ran, by
// its store's metadata, that its seconds are no result.
bool machine_was_busy(const base::Json& metadata);

}  // namespace einforge::report
