#include "einforge/ops/embedding.h"

#include <ATen/ops/embedding_dense_backward.h>
#include <torch/autograd.h>

#include "einforge/ops/cuda/embedding.h"
#include "einforge/ops/deterministic.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

constexpr std::int64_t kNoPadding = -1;

Tensor weight_gradient(
    const Tensor& grad, const Tensor& index, std::int64_t rows) {
  const Deterministic deterministic;
  return at::embedding_dense_backward(
      grad, index, rows, kNoPadding, /*scale_grad_by_freq=*/false);
}

class Embedding : public torch::autograd::Function<Embedding> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& weight,
      const Tensor& index) {
    context->save_for_backward({index});
    context->saved_data["rows"] = weight.size(0);
    return torch::embedding(weight, index);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    return {
        weight_gradient(
            grads[0],
            context->get_saved_variables()[0],
            context->saved_data["rows"].toInt()),
        Tensor()};
  }
};

class PlacedEmbedding : public torch::autograd::Function<PlacedEmbedding> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& weight,
      const Tensor& index,
      const Tensor& position) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({index});
    context->saved_data["rows"] = weight.size(0);
    return fused::embedding(weight, index, position);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const Tensor& grad = grads[0];
    return {
        weight_gradient(
            grad,
            context->get_saved_variables()[0],
            context->saved_data["rows"].toInt()),
        Tensor(),
        grad.reshape({-1, grad.size(-2), grad.size(-1)}).sum(0)};
  }
};

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& index) {
  return weight.is_cuda() ? Embedding::apply(weight, index)
                          : torch::embedding(weight, index);
}

Tensor embedding(
    const Tensor& weight, const Tensor& index, const Tensor& position) {
  return fused::takes_embedding(weight, index, position)
             ? PlacedEmbedding::apply(weight, index, position)
             : torch::add(ops::embedding(weight, index), position);
}

}  // namespace einforge::ops
