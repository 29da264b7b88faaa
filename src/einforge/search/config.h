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

// Structures for each kind of layer, beside those of whole models. An empty
// list: the first of SearchConfig::structures.
struct SpaceConfig {
  std::vector<std::string> qkv;
  std::vector<std::string> attention_out;
  std::vector<std::string> ffn_in;
  std::vector<std::string> ffn_out;
  std::vector<std::string> head;
  std::int64_t samples = 500;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "qkv",
        self.qkv,
        "axis: structures of q, k and v together, or families with ranges "
        "(btt: alpha 0.25..0.75, rho 0..0.4)");
    visit(
        "attention_out",
        self.attention_out,
        "axis: of the attention output; tied: as qkv");
    visit("ffn_in", self.ffn_in, "axis: of the first FFN matrix");
    visit(
        "ffn_out",
        self.ffn_out,
        "axis: of the second FFN matrix; tied: as ffn_in");
    visit("head", self.head, "axis: of the output head");
    visit(
        "samples",
        self.samples,
        "combinations of these axes, drawn where there are more",
        base::Range{1, 100'000});
  }
  bool empty() const {
    return qkv.empty() && attention_out.empty() && ffn_in.empty() &&
           ffn_out.empty() && head.empty();
  }
  bool operator==(const SpaceConfig&) const = default;
};

// Which trials run, and how far.
struct SchedulerConfig {
  std::string kind = "grid";
  std::int64_t trials = 16;
  std::uint64_t seed = 0;
  std::int64_t eta = 3;
  std::int64_t rungs = 3;
  std::string within = "all";
  std::int64_t lookahead = 0;
  double stop_gain = 0.005;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "kind",
        self.kind,
        "grid, random, halving (successive halving), asha (the same, "
        "asynchronous) or model (a Gaussian process chooses)");
    visit(
        "trials",
        self.trials,
        "trials drawn from the space (random)",
        base::Range{1, 100'000});
    visit(
        "seed",
        self.seed,
        "of the draw (random, structure random:N) and of the order (asha, "
        "model)");
    visit(
        "eta",
        self.eta,
        "one in eta trials passes a rung (halving, asha); a rung is eta times "
        "as long as the one before (halving, asha, model)",
        base::Range{2, 1000});
    visit(
        "rungs",
        self.rungs,
        "times a trial is judged; the first at budget / eta^(rungs - 1) "
        "(halving, asha, model)",
        base::Range{1, 20});
    visit(
        "within",
        self.within,
        "trials compete within: all, model (one width and depth), structure, "
        "or both (halving, asha)");
    visit(
        "lookahead",
        self.lookahead,
        "a decision waits for all results but those of the last lookahead - 1 "
        "decisions; 0: as many as there are workers when the search begins "
        "(asha, model)",
        base::Range{0, 256});
    visit(
        "stop_gain",
        self.stop_gain,
        "the search ends when no trial is expected to raise the multiplier by "
        "this share (model)");
  }
  bool operator==(const SchedulerConfig&) const = default;
};

// Training what was found again (docs/search.md).
struct ConfirmConfig {
  std::int64_t top = 0;
  std::int64_t seeds = 2;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "top",
        self.top,
        "structures that are trained again when the search has ended, the best "
        "first, beside the baseline; 0: none",
        base::Range{0, 100});
    visit(
        "seeds",
        self.seeds,
        "seeds of their runs, which the search has not used",
        base::Range{2, 100});
  }
  bool operator==(const ConfirmConfig&) const = default;
};

struct SearchConfig {
  std::string name = "search";
  std::string out = "runs/search";
  std::string store;
  std::string checkpoints;
  double lease = 60;
  train::TrainConfig train;
  std::vector<std::string> structures = {"dense"};
  SpaceConfig space;
  std::vector<std::int64_t> widths;
  std::vector<std::int64_t> layers;
  std::vector<double> learning_rates;
  std::vector<std::uint64_t> seeds = {0};
  BudgetConfig budget;
  std::string objective = "flops";
  std::vector<std::string> constraints;
  SchedulerConfig scheduler;
  ConfirmConfig confirm;
  std::int64_t curve_points = 30;
  double warmup_share = 0.05;
  std::int64_t workers = 1;
  std::int64_t processes_per_trial = 1;
  std::vector<std::string> devices;
  std::int64_t attempts = 3;
  std::int64_t bootstrap = 1000;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("name", self.name, "title of the report");
    visit("out", self.out, "folder of the store, the trials and the report");
    visit(
        "store",
        self.store,
        "postgresql://HOST/DATABASE: trials are kept there, for several "
        "machines; empty: in a file in out");
    visit(
        "checkpoints",
        self.checkpoints,
        "folder of the trials' checkpoints, one that all machines see if the "
        "trials of a dead one are to go on; empty: in out");
    visit(
        "lease",
        self.lease,
        "seconds after which a trial whose worker says nothing goes to "
        "another",
        base::Range{1, 86'400});
    visit(
        "train",
        self.train,
        "what all trials share; the axes below overwrite their part of it");
    visit(
        "structures",
        self.structures,
        "axis: structures; paper_sweep: the paper's 23; random:N: N drawn "
        "from the space; NAME@RATE: with this learning rate alone; btt: alpha "
        "0.25..0.75, rho 0..0.4: a family");
    visit(
        "space",
        self.space,
        "structures of each kind of layer (gpt), in all combinations");
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
    visit(
        "objective",
        self.objective,
        "what the multiplier counts (scheduler model): flops, seconds of "
        "training on this device, memory of a training step, decode_ms of one "
        "token; several with commas between: the trials that no other beats");
    visit(
        "constraints",
        self.constraints,
        "what is left out before it trains: 'memory <= 40 GB' of a training "
        "step, 'decode_ms <= 2' of one token through the linear layers");
    visit("scheduler", self.scheduler, "which trials run, and how far");
    visit(
        "confirm",
        self.confirm,
        "the best trained again, on fresh seeds and at the next width");
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
        "processes_per_trial",
        self.processes_per_trial,
        "processes that train one trial together, each on its part of every "
        "batch, and on its own GPU",
        base::Range{1, 256});
    visit(
        "devices",
        self.devices,
        "devices that the workers take in turn, each processes_per_trial of "
        "them, as cuda:0 and cuda:1; empty: all take train.device");
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

// 1 for the schedulers that train every trial to the end.
std::int64_t rung_count(const SchedulerConfig& config);

// Decides while trials run (asha, model): trials enter the store when they are
// chosen.
bool is_asynchronous(const SchedulerConfig& config);

}  // namespace einforge::search
