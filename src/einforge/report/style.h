#pragma once

#include <span>
#include <string>
#include <vector>

namespace einforge::report {

// The name under which a report lists a structure: of a point
// "theta:0.5,0,0.5,0,0.5,0.5,0" the name that `einforge describe --list` has,
// "monarch"; anything else as it is.
std::string display_name(const std::string& structure);

// How plots draw a structure: colours as "#rrggbb" on a light and on a dark
// page, and one of plotly's marker symbols.
struct Style {
  std::string light;
  std::string dark;
  std::string symbol;
};

// A style for each name, no colour twice. A structure looks the same in every
// report: named structures and the paper's sweep have colours of their own,
// others one from the hash of their name, moved on only where it is too near to
// one that is taken.
std::vector<Style> styles(std::span<const std::string> names);

}  // namespace einforge::report
