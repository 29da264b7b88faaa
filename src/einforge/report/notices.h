#pragma once

#include <string>
#include <vector>

namespace einforge::report {

struct Summary;

// What to know before quoting anything of a report, a sentence each: trials
// that are missing, one learning rate for all, a best rate at the end of those
// tried, runs too short to compare, a busy machine.
std::vector<std::string> notices(const Summary& summary);

}  // namespace einforge::report
