#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/search/config.h"
#include "einforge/search/display.h"
#include "einforge/search/scheduler.h"
#include "einforge/search/space.h"

namespace einforge::search {

struct RunOptions {
  // Starts a worker: the program and its first words; the search's folder, the
  // number of threads and the device are added. See worker.h.
  std::vector<std::string> worker_command;
  // As the user typed it, for the report.
  std::string command;
  // Of einforge, its compiler and torch, for the report.
  base::Json versions;
  // Polled a few times per second; true stops the search with checkpoints.
  std::function<bool()> should_stop;
  // Queues trials again that an earlier run of the search recorded as failed
  // or diverged.
  bool retry_failed = false;
  // Rungs that each proposal is to pass; none: what the scheduler wants.
  std::vector<int> targets;
  // Takes part in a search that another machine has begun, which notes what it
  // is and what it ran on.
  bool join = false;
  bool quiet = false;
  // Seconds that a worker may take to start or to stop, and that another
  // search's worker may hold what is left to train.
  double patience = 300;
};

struct RunResult {
  bool interrupted = false;
  int done = 0;
  int failed = 0;  // diverged ones included
  int pruned = 0;
  int begun = 0;  // trained at all
  int total = 0;
  double seconds = 0;
  std::optional<Belief> belief;  // of the scheduler; its trial is a proposal's
};

// With config.store other machines may run the same search at the same time:
// each decides by what is in the store, so that all decide the same, and a
// trial is written by who claimed it last. Runs the search in config.out until
// every trial has come to its end, going on from what is already there. Trials
// are trained by config.workers processes; a worker that dies is replaced and
// its trial resumed from its checkpoint. When this process dies, the workers
// die with it, and the next call goes on. Throws base::InvalidInput when
// another search works on the folder, when it holds a search on other data or
// with another scheduler, or a store of a newer version; base::IoError when
// workers cannot start or write.
RunResult run(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const RunOptions& options);

}  // namespace einforge::search
