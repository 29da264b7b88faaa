#pragma once

#include <torch/types.h>

#include <string>
#include <utility>
#include <vector>

#include "einforge/distributed/world.h"
#include "einforge/nn/layer.h"
#include "einforge/train/config.h"

namespace einforge::train {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

// AdamW with decoupled weight decay, a learning rate multiplier of its own for
// each parameter and clipping by the global gradient norm folded into the same
// pass. Torch's fused kernel does the arithmetic; nothing waits for the
// device. All state is in tensors() and the step number.
// With `shard` each process of `world` keeps the moments of some parameters
// alone, updates them and sends them to the others; all have the same
// gradients.
// Source: arXiv 1711.05101; arXiv 1910.02054, section 5.1 (sharding).
class AdamW {
 public:
  AdamW(
      std::vector<nn::Parameter> parameters,
      const OptimizerConfig& config,
      distributed::World* world = nullptr,
      bool shard = false);

  // One step from the gradients, then drops them. `step` counts from 1. A step
  // whose gradients are no numbers, or so large that their norm (or, clipped,
  // their squares) overflow float32, changes nothing, nor does any after it.
  // Throws c10::Error when a parameter has no gradient.
  void step(std::int64_t step, double rate_factor) {
    prepare(step, rate_factor);
    update();
  }
  // Its two parts: what the device is told of the step, and the step, which a
  // CUDA graph can repeat.
  void prepare(std::int64_t step, double rate_factor);
  void update();

  // Of the gradients of the last step, before clipping, summed in float64: a
  // float32 scalar on the parameters' device, infinite where it overflows.
  const torch::Tensor& gradient_norm() const { return norm_; }

  // The step from which on nothing changed, 0 for none: a float32 scalar on
  // the parameters' device.
  const torch::Tensor& failed_step() const { return failed_step_; }

  // The moments, "first.NAME" and "second.NAME"; what is copied into them is
  // the state from then on. Of a shard its own alone.
  NamedTensors tensors() const;

  // The moments of all parameters at rank 0, to be saved.
  NamedTensors gather() const;
  // Room for those of all parameters, to be loaded, at rank 0 ...
  NamedTensors whole() const;
  // ... and from there to where they belong. Nothing for one process.
  void spread(const NamedTensors& whole);

 private:
  // Parameters that share a rule share a kernel launch.
  struct Group {
    nn::ParameterRule rule;
    std::vector<torch::Tensor> parameters;
    std::vector<int> owners;            // ranks; of a shard
    std::vector<torch::Tensor> first;   // undefined where another owns it
    std::vector<torch::Tensor> second;  // the same
    std::vector<std::string> names;
  };

  bool owns(int owner) const { return !shard_ || owner == world_->rank(); }
  // Calls visit(name, moment, parameter, owner) for all moments.
  template <typename F>
  void each_moment(F visit) const;
  void send_parameters();

  OptimizerConfig config_;
  distributed::World* world_;
  bool shard_;
  std::vector<Group> groups_;
  torch::Tensor step_;
  // Of each group: of the rule and of the step.
  torch::Tensor multipliers_;
  torch::Tensor rates_;
  torch::Tensor norm_;
  torch::Tensor failed_step_;
};

}  // namespace einforge::train
