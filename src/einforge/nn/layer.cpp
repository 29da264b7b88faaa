#include "einforge/nn/layer.h"

#include <stdexcept>
#include <utility>

namespace einforge::nn {

torch::Tensor Layer::add_parameter(
    const std::string& name,
    const torch::Tensor& initial,
    const ParameterRule& rule) {
  // Detached: a parameter that is a view must not follow what it views.
  own_.push_back({name, register_parameter(name, initial.detach()), rule});
  return own_.back().tensor;
}

std::vector<Parameter> Layer::trainable() const {
  std::vector<Parameter> all = own_;
  for (const auto& child : named_children()) {
    const auto* layer = dynamic_cast<const Layer*>(child.value().get());
    if (layer == nullptr) {
      throw std::logic_error(
          "nn: '" + child.key() + "' is no Layer; its rules are unknown");
    }
    for (Parameter parameter : layer->trainable()) {
      parameter.name = child.key() + "." + parameter.name;
      all.push_back(std::move(parameter));
    }
  }
  return all;
}

}  // namespace einforge::nn
