#pragma once

#include <functional>
#include <vector>

namespace einforge::scaling {

struct Minimum {
  std::vector<double> at;
  double value = 0;
};

// The simplex method of Nelder and Mead, begun again from where it ends until
// that improves nothing. For few parameters and functions without derivatives.
// Source: Gao and Han, Comput. Optim. Appl. 51 (2012), 259-277 (coefficients).
Minimum minimise(
    const std::function<double(const std::vector<double>&)>& function,
    const std::vector<double>& start,
    const std::vector<double>& steps);

}  // namespace einforge::scaling
