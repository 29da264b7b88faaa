#include <algorithm>
#include <cmath>

#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

// The same layer with the cores' roles exchanged: order BA becomes AB.
Sizes exchange_roles(const Sizes& n) {
  return {n.beta, n.alpha, n.gamma, n.epsilon, n.delta, n.phi, n.rho};
}

}  // namespace

std::int64_t macs(const Sizes& sizes, Order order) {
  const Sizes n = order == Order::kAB ? sizes : exchange_roles(sizes);
  return n.gamma * n.beta * n.delta * n.phi * n.rho * (n.alpha + n.epsilon);
}

Order cheaper_order(const Sizes& sizes) {
  return macs(sizes, Order::kAB) <= macs(sizes, Order::kBA) ? Order::kAB
                                                            : Order::kBA;
}

std::int64_t parameters(const Sizes& n) {
  return n.gamma * n.phi * n.rho * (n.alpha * n.delta + n.beta * n.epsilon);
}

Structure expert(const Structure& structure) {
  Structure one = structure;
  one.spec.mixture.reset();
  return one;
}

std::int64_t router_parameters(const Structure& structure) {
  const auto& mixture = structure.spec.mixture;
  return mixture ? structure.d_in * mixture->experts : 0;
}

std::int64_t macs(const Structure& structure) {
  const std::int64_t one =
      structure.dense ? structure.d_in * structure.d_out
                      : macs(structure.sizes, cheaper_order(structure.sizes));
  return structure.spec.mixture.value_or(Mixture{}).active * one +
         router_parameters(structure);
}

std::int64_t parameters(const Structure& structure) {
  const std::int64_t one = structure.dense ? structure.d_in * structure.d_out
                                           : parameters(structure.sizes);
  return structure.spec.mixture.value_or(Mixture{}).experts * one +
         router_parameters(structure);
}

std::int64_t generic_rank(const Structure& structure) {
  if (structure.dense) {
    return std::min(structure.d_in, structure.d_out);
  }
  // Experts differ in rho alone, so that k of them are one of k times the rank.
  Sizes sum = structure.sizes;
  sum.rho *= structure.spec.mixture.value_or(Mixture{}).active;
  return std::min({generic_rank(sum), structure.d_in, structure.d_out});
}

std::vector<CoreParametrisation> parametrisation(
    const Structure& structure, std::int64_t base_width) {
  std::vector<CoreShape> shapes;
  if (structure.dense) {
    shapes.push_back({structure.d_in, structure.d_out});
  } else {
    const Order order = cheaper_order(structure.sizes);
    const Sizes n =
        order == Order::kAB ? structure.sizes : exchange_roles(structure.sizes);
    shapes.push_back({n.alpha, n.delta * n.phi * n.rho});
    shapes.push_back({n.beta * n.gamma * n.rho, n.epsilon});
    if (order == Order::kBA) {
      std::swap(shapes[0], shapes[1]);  // core A stays first
    }
  }
  std::vector<CoreParametrisation> cores;
  for (const CoreShape& shape : shapes) {
    const auto in = static_cast<double>(shape.d_in);
    const auto out = static_cast<double>(shape.d_out);
    // The layer's width cancels: base / d_layer * (d_layer / d_core) / cores.
    cores.push_back(
        {shape,
         std::sqrt(std::min(in, out)) / in,
         static_cast<double>(base_width) / in /
             static_cast<double>(shapes.size())});
  }
  return cores;
}

double router_lr_multiplier(
    const Structure& structure, std::int64_t base_width) {
  return static_cast<double>(base_width) / static_cast<double>(structure.d_in);
}

}  // namespace einforge::structure
