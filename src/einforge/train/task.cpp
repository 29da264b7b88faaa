#include "einforge/train/task.h"

#include <utility>

#include "einforge/base/error.h"
#include "einforge/data/dataset.h"
#include "einforge/data/teacher.h"
#include "einforge/train/summary.h"

namespace einforge::train {
namespace {

// To the device without waiting for it: the copy from pinned memory goes on
// while the next steps are being queued, and Torch's allocator keeps that
// memory until it is done.
torch::Tensor send(const torch::Tensor& tensor, torch::Device device) {
  return device.is_cuda()
             ? tensor.pin_memory().to(device, /*non_blocking=*/true)
             : tensor;
}

class TextTask : public Task {
 public:
  TextTask(const TrainConfig& config, torch::Device device)
      : data_(config.data.path),
        batch_size_(config.data.batch_size),
        context_(config.model.context),
        seed_(config.seed),
        device_(device) {}

  data::Batch train(std::int64_t index) const override {
    return send(data_.train_batch(batch_size_, context_, seed_, index));
  }
  data::Batch validation(std::int64_t index) const override {
    return send(data_.validation_batch(batch_size_, context_, index));
  }

 private:
  data::Batch send(const data::Batch& batch) const {
    return {train::send(batch.x, device_), train::send(batch.y, device_)};
  }

  data::TokenDataset data_;
  std::int64_t batch_size_;
  std::int64_t context_;
  std::uint64_t seed_;
  torch::Device device_;
};

class TeacherTask : public Task {
 public:
  TeacherTask(const TrainConfig& config, torch::Device device)
      : teacher_(kTeacherSeed, device, teacher_shape(config)),
        batch_size_(config.data.batch_size),
        seed_(config.seed) {}

  data::Batch train(std::int64_t index) const override {
    return teacher_.train_batch(batch_size_, seed_, index);
  }
  data::Batch validation(std::int64_t index) const override {
    return teacher_.validation_batch(batch_size_, index);
  }

 private:
  data::Teacher teacher_;
  std::int64_t batch_size_;
  std::uint64_t seed_;
};

class Part : public Task {
 public:
  Part(std::unique_ptr<Task> whole, std::int64_t rank, std::int64_t size)
      : whole_(std::move(whole)), rank_(rank), size_(size) {}

  data::Batch train(std::int64_t index) const override {
    const data::Batch batch = whole_->train(index);
    const std::int64_t rows = batch.x.size(0) / size_;
    return {
        batch.x.narrow(0, rank_ * rows, rows),
        batch.y.narrow(0, rank_ * rows, rows)};
  }
  data::Batch validation(std::int64_t index) const override {
    return whole_->validation(index);
  }

 private:
  std::unique_ptr<Task> whole_;
  std::int64_t rank_;
  std::int64_t size_;
};

}  // namespace

void check_parts(const TrainConfig& config, std::int64_t size) {
  base::check(
      config.data.batch_size % size == 0,
      "data.batch_size: expected a multiple of the {} processes; got {}",
      size,
      config.data.batch_size);
}

std::unique_ptr<Task> make_task(
    const TrainConfig& config,
    torch::Device device,
    std::int64_t rank,
    std::int64_t size) {
  std::unique_ptr<Task> whole;
  if (config.model.kind == "gpt") {
    whole = std::make_unique<TextTask>(config, device);
  } else {
    whole = std::make_unique<TeacherTask>(config, device);
  }
  return std::make_unique<Part>(std::move(whole), rank, size);
}

}  // namespace einforge::train
