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

// Throws base::InvalidInput unless `size` processes can share a batch evenly.
void check_parts(const TrainConfig& config, std::int64_t size);

// Of each training batch the part of process `rank` of `size`, which divides
// it: the same batch whatever `size` is.
std::unique_ptr<Task> make_task(
    const TrainConfig& config,
    torch::Device device,
    std::int64_t rank = 0,
    std::int64_t size = 1);

}  // namespace einforge::train
