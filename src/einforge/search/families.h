#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace einforge::search {

// d_in and d_out of a layer.
using LayerShape = std::pair<std::int64_t, std::int64_t>;

// Whether the text gives a family with ranges, as
// "btt: alpha 0.25..0.75, rho 0..0.4".
bool has_ranges(std::string_view text);

// The members of such a family, named as structure::parse() names them:
// exponents in steps of a fortieth, counts (E, k, and rho of mixtures) doubling
// from the least, the end of each range included. Only those that can be built
// at one of the shapes at least, are not degenerate, and make other layers at
// these shapes than the members before.
// A parameter that is no range is written with a space too ("btt: rho 0.25").
// Throws base::InvalidInput for what is no family, and where no member is left.
std::vector<std::string> members(
    std::string_view text, const std::vector<LayerShape>& shapes);

}  // namespace einforge::search
