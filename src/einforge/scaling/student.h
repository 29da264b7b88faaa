#pragma once

#include <cstddef>

namespace einforge::scaling {

// The 97.5% quantile of Student's t; infinity for no degrees of freedom.
double student(std::size_t degrees);
// The 95% quantile, of 90% intervals.
double student90(std::size_t degrees);

}  // namespace einforge::scaling
