#pragma once

#include <torch/types.h>

#include <cstdint>
#include <utility>

#include "einforge/structure/structure.h"

namespace einforge::ops {

// The layer with the roles of its cores settled: `first` is contracted first.
// Order BA is order AB with A and B, alpha and beta, delta and epsilon
// exchanged, so that one implementation serves both:
//
//   z[t,s,g,u,f,r] = sum_i first[i,g,u,f,r] x[t,(i,s),g]
//   y[t,(u,v),f]   = sum_{s,g,r} second[s,g,v,f,r] z[t,s,g,u,f,r]
//
// (i, s) is (alpha, beta) and (u, v) is (delta, epsilon) in order AB.
struct Contraction {
  structure::Order order = structure::Order::kAB;
  std::int64_t first_in = 1;    // i
  std::int64_t second_in = 1;   // s
  std::int64_t gamma = 1;       // g
  std::int64_t first_out = 1;   // u
  std::int64_t second_out = 1;  // v
  std::int64_t phi = 1;         // f
  std::int64_t rho = 1;         // r

  explicit Contraction(const structure::Sizes& sizes);

  std::int64_t d_in() const { return first_in * second_in * gamma; }
  std::int64_t d_out() const { return first_out * second_out * phi; }
  bool ab() const { return order == structure::Order::kAB; }

  // What belongs to core A and to core B, the first core's before the second's;
  // and back again.
  template <typename T>
  std::pair<T, T> ordered(T a, T b) const {
    if (!ab()) {
      std::swap(a, b);
    }
    return {std::move(a), std::move(b)};
  }

  // (tokens, d_in) <-> (tokens, first_in, second_in, gamma), views.
  torch::Tensor split_input(const torch::Tensor& x) const;
  torch::Tensor join_input(const torch::Tensor& x) const;
  // (tokens, d_out) <-> (tokens, first_out, second_out, phi); splitting makes
  // a view.
  torch::Tensor split_output(const torch::Tensor& y) const;
  torch::Tensor join_output(const torch::Tensor& y) const;

  // The cores as batched matrices: (gamma, first_in, first_out phi rho) and
  // (phi, second_in gamma rho, second_out). No copy where strides allow.
  torch::Tensor first_matrices(const torch::Tensor& core) const;
  torch::Tensor second_matrices(const torch::Tensor& core) const;
  // Contiguous ones. No copy for a core in the operator's own layout.
  torch::Tensor pack_first(const torch::Tensor& core) const;
  torch::Tensor pack_second(const torch::Tensor& core) const;
  // And back to the shapes of the cores, as views.
  torch::Tensor unpack_first(const torch::Tensor& packed) const;
  torch::Tensor unpack_second(const torch::Tensor& packed) const;
};

}  // namespace einforge::ops
