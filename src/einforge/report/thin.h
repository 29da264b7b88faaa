#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace einforge::report {

// Indices, ascending, of at most `most` points that look like the line through
// (x, y), x ascending: both ends, and of even shares of the range of x the
// lowest and the highest point each. So a spike of one point stays, and so does
// the width of a noisy line. `most` is at least 4.
std::vector<std::size_t> thin(
    std::span<const double> x, std::span<const double> y, std::size_t most);

}  // namespace einforge::report
