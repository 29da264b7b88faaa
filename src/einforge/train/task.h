#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "einforge/data/batch.h"
#include "einforge/models/plan.h"
#include "einforge/train/config.h"

namespace einforge::train {

// What a config's task looks like to a model, known without loading it.
struct TaskShape {
  std::int64_t inputs = 0;   // features of a sample (mlp)
  std::int64_t outputs = 0;  // the vocabulary (gpt) or number of targets
  // Tokens (gpt) or samples (mlp) of a micro-batch.
  std::int64_t tokens = 0;
  // Identifies the data in a checkpoint: {"tokens":, "hash":} or {"teacher":}.
  base::Json identity;
};

// Reads at most the metadata. Throws base::InvalidInput.
TaskShape task_shape(const TrainConfig& config);

// The model's plan at that shape.
models::ModelPlan plan_model(const TrainConfig& config, const TaskShape& shape);

// A source of batches that are pure functions of their index.
class Task {
 public:
  virtual ~Task() = default;
  // Micro-batch `index` of training, on the device.
  virtual data::Batch train(std::int64_t index) const = 0;
  virtual data::Batch validation(std::int64_t index) const = 0;
};

std::unique_ptr<Task> make_task(
    const TrainConfig& config, torch::Device device);

}  // namespace einforge::train
