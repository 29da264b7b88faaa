#include "einforge/train/adamw.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace einforge::train {

AdamW::AdamW(
    std::vector<nn::Parameter> parameters, const OptimizerConfig& config)
    : config_(config) {
  TORCH_CHECK(!parameters.empty(), "[adamw] expected parameters; got none");
  for (nn::Parameter& parameter : parameters) {
    auto group = std::find_if(
        groups_.begin(), groups_.end(), [&](const Group& candidate) {
          return candidate.rule == parameter.rule;
        });
    if (group == groups_.end()) {
      groups_.push_back({.rule = parameter.rule});
      group = std::prev(groups_.end());
    }
    group->names.push_back(std::move(parameter.name));
    // Strides and all: the kernel walks memory, not indices.
    group->first.push_back(torch::zeros_like(parameter.tensor.detach()));
    group->second.push_back(torch::zeros_like(parameter.tensor.detach()));
    group->parameters.push_back(std::move(parameter.tensor));
  }
  const auto options = groups_.front().parameters.front().options();
  step_ = torch::zeros({}, options.requires_grad(false));
  norm_ = torch::zeros({}, options.requires_grad(false));
  failed_step_ = torch::zeros({}, options.requires_grad(false));
}

void AdamW::step(std::int64_t step, double rate_factor) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> all;
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      const torch::Tensor& gradient = group.parameters[i].grad();
      TORCH_CHECK(
          gradient.defined(), "[adamw] '", group.names[i], "' has no gradient");
      all.push_back(gradient);
    }
  }
  // The squares of a finite gradient may overflow float32, not float64.
  const torch::Tensor norm =
      at::stack(at::_foreach_norm(all, 2, torch::kFloat64)).norm();
  norm_ = norm.to(torch::kFloat32);
  torch::Tensor clipped = norm;
  std::optional<torch::Tensor> divisor;
  if (config_.clip_norm > 0) {
    clipped = norm.clamp_max(config_.clip_norm);
    // The kernel divides the gradients by this in its own pass over them.
    divisor = (norm_ / config_.clip_norm).clamp_min(1);
  }
  step_.fill_(static_cast<double>(step));
  // The second moments are float32.
  static const double kMost = std::sqrt(std::numeric_limits<float>::max());
  const torch::Tensor usable = norm_.isfinite().logical_and(clipped <= kMost);
  failed_step_ =
      torch::where(usable.logical_or(failed_step_ > 0), failed_step_, step_);
  // The kernel's flag for leaving all as it is.
  const torch::Tensor skip = (failed_step_ > 0).to(torch::kFloat32);
  auto gradient = all.begin();
  for (Group& group : groups_) {
    const auto count = static_cast<std::ptrdiff_t>(group.parameters.size());
    const std::vector<torch::Tensor> gradients(gradient, gradient + count);
    gradient += count;
    const std::vector<torch::Tensor> steps(gradients.size(), step_);
    at::_fused_adamw_(
        group.parameters,
        gradients,
        group.first,
        group.second,
        /*max_exp_avg_sqs=*/{},
        steps,
        config_.learning_rate * rate_factor * group.rule.lr_multiplier,
        config_.beta1,
        config_.beta2,
        group.rule.decay ? config_.weight_decay : 0.0,
        config_.epsilon,
        /*amsgrad=*/false,
        /*maximize=*/false,
        divisor,
        skip);
    for (torch::Tensor& parameter : group.parameters) {
      parameter.mutable_grad().reset();
    }
  }
}

NamedTensors AdamW::tensors() const {
  NamedTensors tensors;
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      tensors.emplace_back("first." + group.names[i], group.first[i]);
      tensors.emplace_back("second." + group.names[i], group.second[i]);
    }
  }
  return tensors;
}

}  // namespace einforge::train
