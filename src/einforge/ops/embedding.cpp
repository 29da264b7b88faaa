#include "einforge/ops/embedding.h"

#include <ATen/ops/embedding_dense_backward.h>
#include <torch/autograd.h>

#include "einforge/ops/deterministic.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

constexpr std::int64_t kNoPadding = -1;

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
    const Tensor index = context->get_saved_variables()[0];
    const std::int64_t rows = context->saved_data["rows"].toInt();
    const Deterministic deterministic;
    return {
        at::embedding_dense_backward(
            grads[0],
            index,
            rows,
            kNoPadding,
            /*scale_grad_by_freq=*/false),
        Tensor()};
  }
};

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& index) {
  return weight.is_cuda() ? Embedding::apply(weight, index)
                          : torch::embedding(weight, index);
}

}  // namespace einforge::ops
