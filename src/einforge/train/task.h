#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "einforge/data/batch.h"
#include "einforge/train/config.h"

namespace einforge::train {

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
