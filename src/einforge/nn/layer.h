#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace einforge::nn {

// How the optimiser treats a parameter. Gains, biases and embeddings keep the
// defaults; docs/training.md has the table.
struct ParameterRule {
  // Multiplies the base learning rate.
  double lr_multiplier = 1;
  // Whether weight decay applies.
  bool decay = false;
  bool operator==(const ParameterRule&) const = default;
};

struct Parameter {
  std::string name;  // dotted: "blocks.0.attention.q.core_a"
  torch::Tensor tensor;
  ParameterRule rule;
};

// A Torch module that knows the rule of each of its own parameters.
class Layer : public torch::nn::Module {
 public:
  // Its parameters and those of all layers within, in order of registration.
  // Throws std::logic_error for one that was registered without a rule.
  std::vector<Parameter> trainable() const;

 protected:
  // Registers a parameter; the tensor returned is the one that is trained.
  torch::Tensor add_parameter(
      const std::string& name,
      const torch::Tensor& initial,
      const ParameterRule& rule = {});

 private:
  std::vector<Parameter> own_;
};

}  // namespace einforge::nn
