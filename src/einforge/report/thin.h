#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace einforge::report {

// Indices, ascending, of at most `most` points that keep the shape of the line
// through (x, y): both ends, then again and again the point that lies furthest
// in y from the line so far (Ramer-Douglas-Peucker, best first). A spike stays,
// whatever its width. `most` is at least 2.
std::vector<std::size_t> thin(
    std::span<const double> x, std::span<const double> y, std::size_t most);

}  // namespace einforge::report
