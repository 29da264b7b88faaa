#include "einforge/ops/contraction.h"

namespace einforge::ops {

Contraction::Contraction(const structure::Sizes& sizes)
    : order(structure::cheaper_order(sizes)),
      first_in(ab() ? sizes.alpha : sizes.beta),
      second_in(ab() ? sizes.beta : sizes.alpha),
      gamma(sizes.gamma),
      first_out(ab() ? sizes.delta : sizes.epsilon),
      second_out(ab() ? sizes.epsilon : sizes.delta),
      phi(sizes.phi),
      rho(sizes.rho) {}

torch::Tensor Contraction::split_input(const torch::Tensor& x) const {
  const std::int64_t tokens = x.size(0);
  return ab() ? x.view({tokens, first_in, second_in, gamma})
              : x.view({tokens, second_in, first_in, gamma}).transpose(1, 2);
}

torch::Tensor Contraction::join_input(const torch::Tensor& x) const {
  return (ab() ? x : x.transpose(1, 2)).reshape({x.size(0), d_in()});
}

torch::Tensor Contraction::split_output(const torch::Tensor& y) const {
  const std::int64_t tokens = y.size(0);
  return ab() ? y.view({tokens, first_out, second_out, phi})
              : y.view({tokens, second_out, first_out, phi}).transpose(1, 2);
}

torch::Tensor Contraction::join_output(const torch::Tensor& y) const {
  return (ab() ? y : y.transpose(1, 2)).reshape({y.size(0), d_out()});
}

torch::Tensor Contraction::first_matrices(const torch::Tensor& core) const {
  return core.permute({1, 0, 2, 3, 4})
      .reshape({gamma, first_in, first_out * phi * rho});
}

torch::Tensor Contraction::second_matrices(const torch::Tensor& core) const {
  return core.permute({3, 0, 1, 4, 2})
      .reshape({phi, second_in * gamma * rho, second_out});
}

torch::Tensor Contraction::pack_first(const torch::Tensor& core) const {
  return first_matrices(core).contiguous();
}

torch::Tensor Contraction::pack_second(const torch::Tensor& core) const {
  return second_matrices(core).contiguous();
}

torch::Tensor Contraction::unpack_first(const torch::Tensor& packed) const {
  return packed.view({gamma, first_in, first_out, phi, rho})
      .permute({1, 0, 2, 3, 4});
}

torch::Tensor Contraction::unpack_second(const torch::Tensor& packed) const {
  return packed.view({phi, second_in, gamma, rho, second_out})
      .permute({1, 2, 4, 0, 3});
}

}  // namespace einforge::ops
