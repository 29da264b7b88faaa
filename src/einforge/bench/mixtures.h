#pragma once

#include "einforge/bench/layers.h"

namespace einforge::bench {

// A mixture of experts, router included, by every implementation: "dense" is
// the dense layer (or feed-forward network) that it stands in for, "einforge"
// what a user gets, then each kernel by its name. Where `which` has a routing,
// the choice is made uneven by a bias on the router's scores, which are near
// to uniform by themselves.
//
// Sets d_out of the problem to that of the whole (a feed-forward network ends
// at the width it began with), and labels experts, active, routing and
// largest_share: of all tokens, those that the busiest expert has.
void add_mixture(
    const LayerCase& which, const Machine& machine, Problem& problem);

}  // namespace einforge::bench
