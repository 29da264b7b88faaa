#pragma once

#include <torch/types.h>

#include <functional>

#include "einforge/nn/layer.h"

namespace einforge::nn {

// While one lives, the linear layers, mixtures and routers that this thread
// runs show it what they read and what they gave. The newest one sees it.
class Observer {
 public:
  // x (..., d_in), undefined of a router; y (..., d_out), of a router its
  // logits (T, E).
  using See = std::function<void(
      const Layer& layer, const torch::Tensor& x, const torch::Tensor& y)>;

  explicit Observer(See see);
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;
  ~Observer();

  // Whether one lives.
  static bool is_there();
  // For layers, at the end of a forward pass.
  static void show(
      const Layer& layer, const torch::Tensor& x, const torch::Tensor& y);

 private:
  See see_;
  Observer* before_;
};

}  // namespace einforge::nn
