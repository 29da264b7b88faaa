#include "einforge/models/token_loss.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace einforge::models {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// The sum over a chunk's rows.
using ChunkLoss =
    std::function<Tensor(const Tensor& hidden, const Tensor& targets)>;

// Calls `visit(begin, rows)` for each chunk.
template <typename Visit>
void for_chunks(std::int64_t rows, std::int64_t chunk, const Visit& visit) {
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    visit(begin, std::min(chunk, rows - begin));
  }
}

class ChunkedLoss : public torch::autograd::Function<ChunkedLoss> {
 public:
  // Saves the gradients for a gradient of 1 of the loss: of the hidden rows,
  // then of the parameters.
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& hidden,
      at::TensorList parameters,
      const Tensor& targets,
      std::int64_t chunk,
      const ChunkLoss& loss) {
    const auto rows = hidden.size(0);
    Tensor sum = torch::zeros({}, hidden.options().dtype(torch::kFloat32));
    variable_list gradients = {torch::empty_like(hidden)};
    for (const Tensor& parameter : parameters) {
      gradients.push_back(torch::zeros_like(parameter));
    }
    for_chunks(rows, chunk, [&](std::int64_t begin, std::int64_t count) {
      const torch::AutoGradMode with_grad(true);
      const Tensor part =
          hidden.narrow(0, begin, count).detach().requires_grad_();
      variable_list inputs = {part};
      inputs.insert(inputs.end(), parameters.begin(), parameters.end());
      const Tensor part_loss = loss(part, targets.narrow(0, begin, count)) /
                               static_cast<double>(rows);
      const variable_list found = torch::autograd::grad({part_loss}, inputs);
      const torch::NoGradGuard no_grad;
      sum.add_(part_loss);
      gradients[0].narrow(0, begin, count).copy_(found[0]);
      for (std::size_t i = 1; i < found.size(); ++i) {
        gradients[i].add_(found[i]);
      }
    });
    context->save_for_backward(std::move(gradients));
    return sum;
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    variable_list gradients = context->get_saved_variables();
    for (Tensor& gradient : gradients) {
      gradient = gradient * grads[0];
    }
    gradients.resize(gradients.size() + 3);  // targets, chunk, loss
    return gradients;
  }
};

}  // namespace

std::int64_t rows_at_once(std::int64_t vocabulary) {
  return std::max<std::int64_t>(1, (std::int64_t{1} << 27) / vocabulary);
}

Tensor token_loss(
    nn::TokenLayer& head,
    const Tensor& hidden,
    const Tensor& targets,
    std::int64_t chunk) {
  if (hidden.size(0) <= chunk) {
    return torch::cross_entropy_loss(head.forward(hidden), targets);
  }
  const ChunkLoss loss = [&head](const Tensor& rows, const Tensor& of) {
    return torch::cross_entropy_loss(
        head.forward(rows), of, /*weight=*/{}, at::Reduction::Sum);
  };
  if (!torch::GradMode::is_enabled()) {
    Tensor sum = torch::zeros({}, hidden.options().dtype(torch::kFloat32));
    for_chunks(
        hidden.size(0), chunk, [&](std::int64_t begin, std::int64_t count) {
          sum.add_(loss(
              hidden.narrow(0, begin, count), targets.narrow(0, begin, count)));
        });
    return sum / static_cast<double>(hidden.size(0));
  }
  variable_list parameters;
  for (const Tensor& parameter : head.parameters()) {
    if (parameter.requires_grad()) {
      parameters.push_back(parameter);
    }
  }
  return ChunkedLoss::apply(
      hidden, at::TensorList(parameters), targets, chunk, loss);
}

}  // namespace einforge::models
