#pragma once

#include <torch/types.h>

#include "einforge/structure/structure.h"

namespace einforge::nn {

struct Projection {
  torch::Tensor core_a;       // (alpha, gamma, delta, phi, rho), float64
  torch::Tensor core_b;       // (beta, gamma, epsilon, phi, rho), float64
  double relative_error = 0;  // ||W - W'|| / ||W||, Frobenius
};

// The cores whose matrix W' is nearest to a dense one.
//
// For each (gamma, phi) a structured matrix has rank rho over ((beta, epsilon),
// (alpha, delta)), so that the optimum is a truncated singular value
// decomposition of each such slice, for any theta and rank.
//
// @param weight (d_out, d_in), any floating dtype; computed in float64
// @param sizes whose products are d_in and d_out
// @throw c10::Error when a shape does not fit or a value is not finite
Projection project(const torch::Tensor& weight, const structure::Sizes& sizes);

// A layer's parameters for a matrix: cores at the RMS caps, so that capping
// changes nothing, and gains that carry the rest.
struct ProjectedLinear {
  torch::Tensor core_a;
  torch::Tensor core_b;
  torch::Tensor gain_a;  // (1)
  torch::Tensor gain_b;  // (1)
  double relative_error = 0;
};

// The parameters of EinsumLinear, of the dtype of the matrix; of a padded
// structure those of the layer inside.
//
// @param weight (structure.d_out, structure.d_in)
// @throw c10::Error as project(), and for a dense structure
ProjectedLinear project_linear(
    const torch::Tensor& weight, const structure::Structure& structure);

}  // namespace einforge::nn
