#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <optional>

// Which experts a token takes, and the tokens in the order of their experts.
// T tokens, E experts, of which each token takes k. Nothing here waits for a
// CUDA device.
namespace einforge::ops {

// A router's scores, x weight^T, multiplied and summed in the weight's dtype
// whatever x's and autocast's is: a choice between experts whose scores are
// near should not depend on rounding to bfloat16.
//
// @param x (..., d_in), any floating-point dtype
// @param weight (E, d_in), float32 or float64
// @return (T, E), the dtype of weight
// Differentiable in both; saves both and no copy of x in the wider dtype.
torch::Tensor moe_logits(const torch::Tensor& x, const torch::Tensor& weight);

// Its gradients of x and weight; undefined where not asked for.
//
// @param grad (T, E), the dtype of weight
std::array<torch::Tensor, 2> moe_logits_backward(
    const torch::Tensor& grad,
    const torch::Tensor& x,
    const torch::Tensor& weight,
    std::array<bool, 2> asked);

struct MoeRouting {
  torch::Tensor experts;  // (T, k) int32, the best first
  torch::Tensor gates;    // (T, k), the dtype of the logits
};

struct MoeRouteOptions {
  // Gates are the chosen experts' shares of all E, which sum to less than 1;
  // false: a softmax over the chosen. Not set: true for one active expert of
  // several, whose softmax over itself is 1 and gives the router no gradient,
  // else false.
  std::optional<bool> softmax_first = std::nullopt;
  // (E), added to the logits for the choice and not for the gates.
  std::optional<torch::Tensor> bias = std::nullopt;
};

// What softmax_first comes to for `active` of `experts`.
//
// @throw c10::Error when active is not in 1 to experts, and when false is asked
//   for with one active expert of several
bool gates_of_all(
    std::optional<bool> softmax_first,
    std::int64_t active,
    const c10::SymInt& experts);

// The k experts with the highest logits; of equal ones those with the lower
// number. NaN counts as highest. Differentiable in the logits, by the gates.
//
// @param logits (T, E)
// @throw c10::Error when active is not in 1 to E
MoeRouting moe_route(
    const torch::Tensor& logits,
    std::int64_t active,
    const MoeRouteOptions& options = {});

// The T k pairs of a token and an expert, by expert and, within one, by token.
struct MoeDispatch {
  // (E + 1) int32; those of expert e are order[offsets[e]:offsets[e + 1]].
  torch::Tensor offsets;
  // (T k) int32, the pair t k + j.
  torch::Tensor order;
};

// @param experts (T, k), int32 or int64, T k < 2^31
// @throw c10::Error on the CPU when a value is not in [0, count)
MoeDispatch moe_dispatch(const torch::Tensor& experts, std::int64_t count);

// The number of tokens that each expert has.
//
// @return (count) int64
torch::Tensor moe_counts(const torch::Tensor& experts, std::int64_t count);

}  // namespace einforge::ops
