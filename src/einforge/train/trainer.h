#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "einforge/distributed/world.h"
#include "einforge/store/store.h"
#include "einforge/train/config.h"
#include "einforge/train/profile.h"
#include "einforge/train/summary.h"

namespace einforge::train {

enum class Outcome {
  kFinished,     // all steps done
  kPaused,       // reached stop_at_step; resumable
  kInterrupted,  // should_stop said so; a checkpoint was written
  kDiverged,     // the loss became NaN or infinite
};

struct TrainOptions {
  // Where checkpoints, log.jsonl and TensorBoard events go.
  std::filesystem::path directory;
  // Go on from the newest intact checkpoint there, if there is one.
  bool resume = false;
  // Stop, with a checkpoint, after this many steps in all; -1: config.steps.
  std::int64_t stop_at_step = -1;
  // Called after each evaluation, and once at step 0.
  std::function<void(const store::CurvePoint&)> on_point;
  // Called every step with steps done; for progress displays.
  std::function<void(std::int64_t step, double loss)> on_step;
  // Polled every step.
  std::function<bool()> should_stop;
  // Called with what somebody should know; without it, it goes to standard
  // error.
  std::function<void(const std::string& message)> on_warning;
  // The trainer's own progress bar.
  bool progress = true;
  // Profile so many steps, to profile.json (a Chrome trace) and
  // profile_summary.json in the directory; 0: none.
  std::int64_t profile_steps = 0;
  // Called when that is done.
  std::function<void(const Profile&)> on_profile;
  // The processes that train this model together, each on its part of every
  // batch; null: this one alone. All give the same config. Rank 0 writes the
  // folder and calls the functions above; what stops one stops all.
  distributed::World* world = nullptr;
  // Each of them keeps the optimiser's moments of some of the parameters alone.
  // Changes no result. Source: arXiv 1910.02054, section 5.1 (stage 1).
  bool shard_optimizer = false;
};

struct TrainResult {
  Outcome outcome = Outcome::kFinished;
  std::string reason;      // for kDiverged
  std::int64_t steps = 0;  // done in all, over all resumptions
  double final_loss = 0;   // last validation loss
  double flops = 0;
  double seconds = 0;  // training time over all resumptions
  // {"step", "layers", "warnings"}: what the routers of mixtures of experts
  // last did, see RouterRow, and the latest warning that lasted of each layer
  // and kind, see RouterWarning; null where the model has none or was not
  // logged yet.
  base::Json routers;
};

// Trains the model; deterministic on the CPU: killed at any point and resumed,
// it ends with bitwise the same weights as an uninterrupted run.
// Throws base::InvalidInput for a bad config or a foreign checkpoint,
// base::IoError when it cannot write.
TrainResult train(const TrainConfig& config, const TrainOptions& options);

}  // namespace einforge::train
