#include "einforge/train/adamw.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace einforge::train {

AdamW::AdamW(
    std::vector<nn::Parameter> parameters,
    const OptimizerConfig& config,
    distributed::World* world,
    bool shard)
    : config_(config),
      world_(world),
      shard_(shard && world != nullptr && !world->is_alone()) {
  TORCH_CHECK(!parameters.empty(), "[adamw] expected parameters; got none");
  // Each parameter goes to the process that has the least so far.
  std::vector<std::int64_t> loads(
      shard_ ? static_cast<std::size_t>(world_->size()) : 1);
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
    const auto least = std::ranges::min_element(loads);
    *least += parameter.tensor.numel();
    const int owner = static_cast<int>(least - loads.begin());
    group->owners.push_back(owner);
    for (auto* moments : {&group->first, &group->second}) {
      moments->push_back(
          owns(owner) ? torch::zeros_like(parameter.tensor.detach())
                      : torch::Tensor());
    }
    group->parameters.push_back(std::move(parameter.tensor));
  }
  const auto options = groups_.front().parameters.front().options();
  step_ = torch::zeros({}, options.requires_grad(false));
  norm_ = torch::zeros({}, options.requires_grad(false));
  failed_step_ = torch::zeros({}, options.requires_grad(false));
  std::vector<double> multipliers;
  for (const Group& group : groups_) {
    multipliers.push_back(group.rule.lr_multiplier);
  }
  // Torch's kernel for a GPU reads float32, the one for the CPU any number.
  multipliers_ = torch::tensor(multipliers, torch::kFloat64)
                     .to(step_.device(),
                         step_.is_cpu() ? torch::kFloat64 : torch::kFloat32);
  rates_ = torch::empty_like(multipliers_);
}

void AdamW::prepare(std::int64_t step, double rate_factor) {
  step_.fill_(static_cast<double>(step));
  at::mul_out(
      rates_,
      multipliers_,
      at::scalar_tensor(config_.learning_rate * rate_factor, torch::kFloat64));
}

// All that outlasts it is written in place.
void AdamW::update() {
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
  norm_.copy_(norm);
  std::optional<torch::Tensor> divisor;
  if (config_.clip_norm > 0) {
    // The kernel divides the gradients by this in its own pass over them.
    divisor = (norm_ / config_.clip_norm).clamp_min(1);
  }
  // The second moments are float32, and clipped gradients have this norm.
  constexpr float kLargest = std::numeric_limits<float>::max();
  static const float kMost = std::sqrt(kLargest);
  const bool fits_clipped = config_.clip_norm > 0 && config_.clip_norm <= kMost;
  const torch::Tensor usable = norm_ <= (fits_clipped ? kLargest : kMost);
  at::where_out(
      failed_step_, usable.logical_or(failed_step_), failed_step_, step_);
  // The kernel's flag for leaving all as it is.
  const torch::Tensor skip = failed_step_.sign();
  const std::vector<torch::Tensor> rates = rates_.unbind();
  auto gradient = all.begin();
  auto rate = rates.begin();
  for (Group& group : groups_) {
    const torch::Tensor& group_rate = *rate++;
    std::vector<torch::Tensor> parameters;
    std::vector<torch::Tensor> gradients;
    std::vector<torch::Tensor> first;
    std::vector<torch::Tensor> second;
    for (std::size_t i = 0; i < group.parameters.size(); ++i, ++gradient) {
      if (owns(group.owners[i])) {
        parameters.push_back(group.parameters[i]);
        gradients.push_back(*gradient);
        first.push_back(group.first[i]);
        second.push_back(group.second[i]);
      }
    }
    for (torch::Tensor& parameter : group.parameters) {
      parameter.mutable_grad().reset();
    }
    if (parameters.empty()) {
      continue;
    }
    const std::vector<torch::Tensor> steps(gradients.size(), step_);
    at::_fused_adamw_(
        parameters,
        gradients,
        first,
        second,
        /*max_exp_avg_sqs=*/{},
        steps,
        group_rate,
        config_.beta1,
        config_.beta2,
        group.rule.decay ? config_.weight_decay : 0.0,
        config_.epsilon,
        /*amsgrad=*/false,
        /*maximize=*/false,
        divisor,
        skip);
  }
  if (shard_) {
    send_parameters();
  }
}

// Those of one owner as one message.
void AdamW::send_parameters() {
  for (int owner = 0; owner < world_->size(); ++owner) {
    std::vector<torch::Tensor> parts;  // as they lie in memory
    for (const Group& group : groups_) {
      for (std::size_t i = 0; i < group.parameters.size(); ++i) {
        if (group.owners[i] == owner) {
          const torch::Tensor parameter = group.parameters[i].detach();
          parts.push_back(parameter.as_strided({parameter.numel()}, {1}));
        }
      }
    }
    if (parts.empty()) {
      continue;
    }
    const torch::Tensor flat = torch::cat(parts);
    world_->broadcast(flat, owner);
    if (owner != world_->rank()) {
      std::int64_t offset = 0;
      for (torch::Tensor& part : parts) {
        part.copy_(flat.narrow(0, offset, part.numel()));
        offset += part.numel();
      }
    }
  }
}

template <typename F>
void AdamW::each_moment(F visit) const {
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      const torch::Tensor& parameter = group.parameters[i];
      visit(
          "first." + group.names[i],
          group.first[i],
          parameter,
          group.owners[i]);
      visit(
          "second." + group.names[i],
          group.second[i],
          parameter,
          group.owners[i]);
    }
  }
}

NamedTensors AdamW::tensors() const {
  NamedTensors tensors;
  each_moment([&](auto name, const auto& moment, const auto&, int) {
    if (moment.defined()) {
      tensors.emplace_back(std::move(name), moment);
    }
  });
  return tensors;
}

NamedTensors AdamW::gather() const {
  if (!shard_) {
    return tensors();
  }
  NamedTensors all;
  each_moment(
      [&](auto name, const auto& moment, const auto& parameter, int owner) {
        const torch::Tensor sent =
            moment.defined() ? moment : torch::empty_like(parameter.detach());
        world_->broadcast(sent, owner);
        if (world_->is_first()) {
          all.emplace_back(std::move(name), sent.cpu());
        }
      });
  return all;
}

NamedTensors AdamW::whole() const {
  if (!shard_) {
    return tensors();
  }
  NamedTensors all;
  each_moment([&](auto name, const auto&, const auto& parameter, int) {
    all.emplace_back(
        std::move(name),
        torch::empty_like(
            parameter.detach(), torch::TensorOptions().device(torch::kCPU)));
  });
  return all;
}

void AdamW::spread(const NamedTensors& whole) {
  if (world_ == nullptr) {
    return;
  }
  auto loaded = whole.begin();
  each_moment([&](auto, const auto& moment, const auto& parameter, int) {
    torch::Tensor sent =
        moment.defined() ? moment : torch::empty_like(parameter.detach());
    if (world_->is_first()) {
      sent.copy_((loaded++)->second);
    }
    world_->broadcast(sent);
  });
}

}  // namespace einforge::train
