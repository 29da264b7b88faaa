#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/base/config.h"
#include "einforge/train/config.h"

namespace einforge::search {

// How long each trial trains. Exactly one of the three is positive.
struct BudgetConfig {
  double tokens = 0;
  double tokens_per_parameter = 0;
  double flops = 0;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("tokens", self.tokens, "tokens (gpt) or samples (mlp) per trial");
    visit(
        "tokens_per_parameter",
        self.tokens_per_parameter,
        "tokens per trial / parameters of its model");
    visit("flops", self.flops, "FLOPs per trial, forward + backward");
  }
  bool operator==(const BudgetConfig&) const = default;
};

// Which trials run, and how far.
struct SchedulerConfig {
  std::string kind = "grid";
  std::int64_t trials = 16;
  std::uint64_t seed = 0;
  std::int64_t eta = 3;
  std::int64_t rungs = 3;
  std::string within = "all";

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("kind", self.kind, "grid, random or halving (successive halving)");
    visit(
        "trials",
        self.trials,
        "trials drawn from the space (random)",
        base::Range{1, 100'000});
    visit("seed", self.seed, "of the draw (random, structure random:N)");
    visit(
        "eta",
        self.eta,
        "one in eta trials passes a rung (halving)",
        base::Range{2, 1000});
    visit(
        "rungs",
        self.rungs,
        "times a trial is judged; the first at budget / eta^(rungs - 1) "
        "(halving)",
        base::Range{1, 20});
    visit(
        "within",
        self.within,
        "trials compete within: all, model (one width and depth), structure, "
        "or both (halving)");
  }
  bool operator==(const SchedulerConfig&) const = default;
};

struct SearchConfig {
  std::string name = "search";
  std::string out = "runs/search";
  train::TrainConfig train;
  std::vector<std::string> structures = {"dense"};
  std::vector<std::int64_t> widths;
  std::vector<std::int64_t> layers;
  std::vector<double> learning_rates;
  std::vector<std::uint64_t> seeds = {0};
  BudgetConfig budget;
  SchedulerConfig scheduler;
  std::int64_t curve_points = 30;
  double warmup_share = 0.05;
  std::int64_t workers = 1;
  std::int64_t attempts = 3;
  std::int64_t bootstrap = 1000;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, "title of the report");
    visit("out", self.out, "folder of the store, the trials and the report");
    visit(
        "train",
        self.train,
        "what all trials share; the axes below overwrite their part of it");
    visit(
        "structures",
        self.structures,
        "axis: structures; paper_sweep: the paper's 23; random:N: N drawn "
        "from the space; NAME@RATE: with this learning rate alone");
    visit(
        "widths",
        self.widths,
        "axis: train.model.width",
        base::Range{1, 1'000'000});
    visit(
        "layers",
        self.layers,
        "axis: train.model.layers",
        base::Range{1, 10'000});
    visit(
        "learning_rates",
        self.learning_rates,
        "axis: train.optimizer.learning_rate; the random scheduler draws "
        "log-uniformly between the smallest and the largest");
    visit("seeds", self.seeds, "axis: train.seed");
    visit(
        "budget", self.budget, "how long each trial trains; sets train.steps");
    visit("scheduler", self.scheduler, "which trials run, and how far");
    visit(
        "curve_points",
        self.curve_points,
        "evaluations per trial, evenly spaced; sets train.eval_every",
        base::Range{1, 1'000'000});
    visit(
        "warmup_share",
        self.warmup_share,
        "share of the steps that warm up, where train.schedule.warmup_steps "
        "is -1");
    visit(
        "workers",
        self.workers,
        "processes that train trials side by side; they share the CPU cores "
        "or the GPU",
        base::Range{1, 256});
    visit(
        "attempts",
        self.attempts,
        "times a trial may kill its worker before it counts as failed",
        base::Range{1, 1'000'000});
    visit(
        "bootstrap",
        self.bootstrap,
        "replicates behind the report's intervals; 0: no intervals",
        base::Range{0, 1'000'000});
  }
  // Throws base::InvalidInput that names the key, what was expected and came.
  // `train` is checked trial by trial, since the axes overwrite parts of it.
  void validate() const;
  bool operator==(const SearchConfig&) const = default;
};

// 1 unless the scheduler is successive halving.
std::int64_t rung_count(const SchedulerConfig& config);

}  // namespace einforge::search
