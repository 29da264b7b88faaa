#pragma once

#include <c10/core/StreamGuard.h>
#include <torch/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/progress.h"
#include "einforge/data/batch.h"
#include "einforge/distributed/gradient_sums.h"
#include "einforge/distributed/world.h"
#include "einforge/models/model.h"
#include "einforge/ops/cuda/graphs.h"
#include "einforge/train/adamw.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/machine_load.h"
#include "einforge/train/router_watch.h"
#include "einforge/train/run_log.h"
#include "einforge/train/run_state.h"
#include "einforge/train/summary.h"
#include "einforge/train/task.h"
#include "einforge/train/trainer.h"

namespace einforge::train {

// One run of train(): what it holds, and its parts. Private to trainer.cpp and
// training_step.cpp.
class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainOptions& options);
  TrainResult run();

 private:
  void resume();
  // Fills state and `weights` from the newest checkpoint, if there is one, and
  // returns the optimiser's whole() of it.
  NamedTensors read_checkpoint(const NamedTensors& weights);
  bool is_ours(const Checkpoint& checkpoint) const;
  // One pass that changes nothing, before the clock starts.
  void warm_up();
  void step();
  // The work of a step on the device: a micro-batch's, and the rest.
  void learn(const data::Batch& batch);
  void update();
  // Records them for repetition, or says why not; runs nothing.
  void record();
  // What record() has made, and what its parts read and write.
  struct Recording {
    explicit Recording(torch::Device device) : graphs(device) {}
    ops::CudaGraphs graphs;
    data::Batch batch;
    torch::Tensor health_sums;
    std::size_t learn = 0;       // the first micro-batch
    std::size_t learn_more = 0;  // the others, whose gradients are added
    std::size_t update = 0;
    std::size_t look = 0;  // where there are routers
  };
  // Whether a step draws random numbers.
  bool draws() const;
  // Starts and ends profiling, between steps.
  void profile();
  // Waits for the device, adds the losses since the last call to the means and
  // the time to the clock. Returns why the run has diverged, or nothing.
  std::string settle();
  void warn(const std::string& message) const;
  // Whether this process or another was asked to stop: the same in all.
  bool should_stop();
  // Notes what the routers did with the last micro-batch, for log().
  void watch_routers();
  void log(double val_loss);
  void evaluate();
  // Writes one, unless some weight or moment is not finite, which is a
  // divergence: returns that, or nothing.
  std::string checkpoint();
  void write_checkpoint(
      const NamedTensors& weights, const NamedTensors& moments);
  void start_progress();
  // Warns once where other processes take the CPUs that this one uses.
  void watch_load();
  TrainResult result(Outcome outcome, std::string reason = "") const;
  // Why a run that has reached its last step has failed, or nothing.
  std::string ended_badly() const;

  double flops() const {
    return static_cast<double>(state_.step) * summary_.flops_per_token *
           static_cast<double>(summary_.tokens_per_step);
  }

  const TrainConfig& config_;
  const TrainOptions& options_;
  distributed::World alone_;
  distributed::World& world_;
  TaskShape shape_;
  ModelSummary summary_;
  torch::Device device_;
  torch::ScalarType dtype_;
  // Where steps are recorded: not on the default stream, and all that a step
  // touches is on one. The memory is given back after all that lies in it.
  bool records_;
  c10::OptionalStreamGuard stream_;
  std::optional<Recording> recording_;
  std::optional<base::FolderLock> lock_;  // rank 0's
  CheckpointFolder checkpoints_;
  // Name and content of the tokenizer's file, which every checkpoint has.
  std::map<std::string, std::string> tokenizer_;
  std::unique_ptr<Task> task_;
  std::shared_ptr<models::Model> model_;
  std::vector<nn::Parameter> parameters_;
  distributed::GradientSums gradients_;
  AdamW optimizer_;
  RouterWatch routers_;
  std::optional<RunLog> log_;  // rank 0's
  std::optional<base::Progress> progress_;
  std::optional<ProfileWindow> profile_window_;
  std::optional<Profiler> profiler_;
  double profile_seconds_ = 0;  // at its timed_from, per step from its from on

  RunState state_;
  std::vector<std::string> row_warnings_;  // of state_.router_rows
  // Since the last settle(): float64, on the device; with_routers_ has the
  // routers' weighted losses too.
  torch::Tensor loss_sum_;
  torch::Tensor with_routers_sum_;
  std::int64_t loss_count_ = 0;
  std::int64_t steps_here_ = 0;  // of this process
  std::chrono::steady_clock::time_point mark_ =
      std::chrono::steady_clock::now();
  // Where tokens per second are counted from.
  std::int64_t rate_step_ = 0;
  double rate_seconds_ = 0;
  double peak_flops_ = 0;
  std::string note_;
  MachineLoad load_;
  bool warned_of_load_ = false;
};

}  // namespace einforge::train
