#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <vector>

#include "einforge/search/space.h"

namespace einforge::search {

// Numbers of models that are sums over their layers, such as the time of a
// step: one term for each kind of layer and its structure (q, k and v are one),
// times how many there are, and one for each size of the model, which is the
// rest of the step. So few models tell the numbers of all that are made of the
// same layers.
class LayerSums {
 public:
  // @param models each can be built
  explicit LayerSums(const std::vector<const Proposal*>& models);

  // Which to measure, at most `most`: those that differ most, until all terms
  // are known as far as the models tell them apart, and half as many again
  // against noise.
  std::vector<std::size_t> to_measure(std::size_t most) const;

  // Beside the models: the number of those that were measured, and of the
  // others what the terms say that fit the measured ones best, by relative
  // error; NaN where these do not tell.
  // @param measured beside the models; NaN where unknown, otherwise above 0
  std::vector<double> complete(std::vector<double> measured) const;

 private:
  Eigen::MatrixXd rows_;  // (models, terms)
};

}  // namespace einforge::search
