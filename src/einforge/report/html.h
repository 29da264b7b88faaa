#pragma once

#include <string>

#include "einforge/report/summary.h"

namespace einforge::report {

// One self-contained page: data, style, script and plotly.js are inside it, so
// that it works offline and for ever. docs/report.md says how to read it.
std::string to_html(const Summary& summary);

}  // namespace einforge::report
