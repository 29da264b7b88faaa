#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/train/event_file.h"
#include "einforge/train/router_watch.h"

namespace einforge::train {

// One row of log.jsonl: what a run had reached after `step` steps.
struct LogRow {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double flops = 0;
  double seconds = 0;
  double learning_rate = 0;  // base rate of the last step, without multipliers
  // Of the last step, before clipping.
  double gradient_norm = 0;
  double tokens_per_second = 0;
  // The most that tensors took at once so far; NaN on a CPU.
  double peak_memory_bytes = std::numeric_limits<double>::quiet_NaN();
  // Mean over the steps since the last row; NaN at step 0.
  double train_loss = std::numeric_limits<double>::quiet_NaN();
  // NaN where not evaluated.
  double val_loss = std::numeric_limits<double>::quiet_NaN();
  // Of the last micro-batch; empty where the model has no routers.
  std::vector<RouterRow> routers;
  std::vector<std::string> warnings;  // about them
};

// log.jsonl and the TensorBoard events of a run. Rows are there after kill -9;
// a run that resumes at a step drops the rows of later ones, so that each step
// is logged exactly once.
class RunLog {
 public:
  // `step` is where the run begins or goes on; `settings`, for TensorBoard, a
  // flat object. Throws base::IoError, as the others do.
  RunLog(
      const std::filesystem::path& directory,
      std::int64_t step,
      const base::Json& settings);

  void append(const LogRow& row);
  void sync() { log_.sync(); }

 private:
  base::File log_;
  EventFile events_;
};

}  // namespace einforge::train
