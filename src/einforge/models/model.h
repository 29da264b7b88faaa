#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "einforge/models/config.h"
#include "einforge/models/plan.h"
#include "einforge/nn/layer.h"

namespace einforge::models {

// A network that a task trains.
class Model : public nn::Layer {
 public:
  // gpt: x (batch, time) int64 tokens, time <= context; returns the logits
  //   (batch, time, vocabulary).
  // mlp, residual_mlp: x (batch, inputs) float32; returns (batch, outputs).
  virtual torch::Tensor forward(const torch::Tensor& x) = 0;

  // The mean loss over all of y, float32: cross-entropy in nats of the next
  // token (gpt, y (batch, time) int64) or squared error (mlp, y as forward's).
  virtual torch::Tensor loss(
      const torch::Tensor& x, const torch::Tensor& y) = 0;

  const ModelPlan& plan() const { return plan_; }

 protected:
  explicit Model(ModelPlan plan) : plan_(std::move(plan)) {}

 private:
  ModelPlan plan_;
};

// Builds the model on the CPU with weights that depend on `seed` alone.
// Arguments and errors are those of plan().
std::shared_ptr<Model> make_model(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    const BaseModel& base,
    std::uint64_t seed);

}  // namespace einforge::models
