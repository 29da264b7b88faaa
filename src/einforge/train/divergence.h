#pragma once

#include <cstdint>
#include <string>

namespace einforge::train {

// When a run has failed although all its numbers are finite. Each function
// returns the reason, or an empty string. `untrained` is the loss of a model
// that knows nothing, which every run starts with; `step` is what was reached.

// A loss from which no run comes back, at any time: 10,000 times `untrained`.
// `with_routers` is the mean training loss with the routers' weighted losses,
// `loss` without them.
std::string runaway(
    double loss, double with_routers, double untrained, std::int64_t step);

// At the end: training and validation loss are both more than 1.5 times
// `untrained`. The validation loss alone may be, of a model that overfits.
std::string ended_worse(
    double train, double validation, double untrained, std::int64_t step);

}  // namespace einforge::train
