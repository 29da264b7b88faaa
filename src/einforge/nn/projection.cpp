#include "einforge/nn/projection.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace einforge::nn {
namespace {

// The core and its gain in a dtype. Below the cap, so that rounding does not
// reach it; the core is divided by the gain as the dtype has it.
std::pair<torch::Tensor, torch::Tensor> at_cap(
    const torch::Tensor& core, double cap, torch::ScalarType dtype) {
  const double ulp = dtype == torch::kBFloat16  ? std::exp2(-7)
                     : dtype == torch::kFloat16 ? std::exp2(-10)
                                                : std::exp2(-23);
  const double scale = core.square().mean().sqrt().item<double>() / cap *
                       (1 + std::max(1e-6, ulp));
  const torch::Tensor gain =
      torch::full({1}, scale > 0 ? scale : 1.0, core.options()).to(dtype);
  return {(core / gain.to(torch::kFloat64)).to(dtype), gain};
}

}  // namespace

Projection project(const torch::Tensor& weight, const structure::Sizes& s) {
  TORCH_CHECK(
      weight.dim() == 2 && weight.size(0) == s.d_out() &&
          weight.size(1) == s.d_in(),
      "[project] expected weight of size (",
      s.d_out(),
      ", ",
      s.d_in(),
      "); got ",
      weight.sizes());
  const torch::NoGradGuard no_grad;
  const torch::Tensor w = weight.to(torch::kFloat64);
  TORCH_CHECK(
      w.isfinite().all().item<bool>(),
      "[project] expected finite values; got some that are not");
  const torch::Tensor slices =
      w.reshape({s.delta, s.epsilon, s.phi, s.alpha, s.beta, s.gamma})
          .permute({5, 2, 4, 1, 3, 0})
          .reshape({s.gamma, s.phi, s.beta * s.epsilon, s.alpha * s.delta});
  const auto [u, sigma, v] = torch::linalg_svd(slices, /*full_matrices=*/false);
  const std::int64_t rank = std::min(s.rho, sigma.size(-1));
  const torch::Tensor root = sigma.narrow(-1, 0, rank).sqrt();
  const torch::Tensor left =
      (u.narrow(-1, 0, rank) * root.unsqueeze(-2))
          .reshape({s.gamma, s.phi, s.beta, s.epsilon, rank});
  const torch::Tensor right =
      (root.unsqueeze(-1) * v.narrow(-2, 0, rank))
          .reshape({s.gamma, s.phi, rank, s.alpha, s.delta});
  Projection found;
  found.core_a = w.new_zeros({s.alpha, s.gamma, s.delta, s.phi, s.rho});
  found.core_b = w.new_zeros({s.beta, s.gamma, s.epsilon, s.phi, s.rho});
  found.core_a.narrow(-1, 0, rank).copy_(right.permute({3, 0, 4, 1, 2}));
  found.core_b.narrow(-1, 0, rank).copy_(left.permute({2, 0, 3, 1, 4}));
  const double norm = w.norm().item<double>();
  const torch::Tensor near =
      torch::einsum("agdfr,bgefr->defabg", {found.core_a, found.core_b})
          .reshape(w.sizes());
  found.relative_error =
      norm > 0 ? (w - near).norm().item<double>() / norm : 0.0;
  return found;
}

ProjectedLinear project_linear(
    const torch::Tensor& weight, const structure::Structure& structure) {
  TORCH_CHECK(
      !structure.dense, "[project_linear] expected two cores; got dense");
  TORCH_CHECK(
      weight.dim() == 2 && weight.size(0) == structure.d_out &&
          weight.size(1) == structure.d_in,
      "[project_linear] expected weight of size (",
      structure.d_out,
      ", ",
      structure.d_in,
      "); got ",
      weight.sizes());
  const structure::Sizes& sizes = structure.sizes;
  const torch::Tensor whole = torch::constant_pad_nd(
      weight.to(torch::kFloat64),
      {0, sizes.d_in() - structure.d_in, 0, sizes.d_out() - structure.d_out});
  const Projection found = project(whole, sizes);
  const auto cores = structure::parametrisation(structure::padded(structure));
  const torch::ScalarType dtype = weight.scalar_type();
  ProjectedLinear layer;
  std::tie(layer.core_a, layer.gain_a) =
      at_cap(found.core_a, cores[0].init_std, dtype);
  std::tie(layer.core_b, layer.gain_b) =
      at_cap(found.core_b, cores[1].init_std, dtype);
  layer.relative_error = found.relative_error;
  return layer;
}

}  // namespace einforge::nn
