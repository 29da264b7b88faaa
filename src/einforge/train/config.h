#pragma once

#include <cstdint>
#include <string>

#include "einforge/base/config.h"
#include "einforge/models/config.h"

namespace einforge::train {

// Steps times tokens per step times FLOPs per token stay a number.
constexpr double kMostSteps = 1e12;

struct DataConfig {
  std::string path;
  std::string teacher = "biased";
  std::int64_t batch_size = 32;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("path", self.path, "folder that `einforge data prepare` made (gpt)");
    visit(
        "teacher",
        self.teacher,
        "function that the regression task learns: biased, or paper, which is "
        "deeper by a layer and has no biases");
    visit(
        "batch_size",
        self.batch_size,
        "sequences or samples per micro-batch",
        base::Range{1, 1'000'000});
  }
  bool operator==(const DataConfig&) const = default;
};

struct OptimizerConfig {
  double learning_rate = 3e-3;
  std::int64_t base_width = 768;
  std::int64_t base_ffn_multiple = 1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double clip_norm = 1;
  std::int64_t accumulate = 1;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("learning_rate", self.learning_rate, "Adam rate at base_width");
    visit(
        "base_width",
        self.base_width,
        "width whose muP multiplier is 1",
        base::Range{1, 1'000'000});
    visit(
        "base_ffn_multiple",
        self.base_ffn_multiple,
        "FFN width / width of the base model: the second FFN matrix has rate "
        "multiplier base_ffn_multiple x base_width / its d_in");
    visit("beta1", self.beta1, "Adam's first moment decay");
    visit("beta2", self.beta2, "Adam's second moment decay");
    visit("epsilon", self.epsilon, "Adam's epsilon");
    visit(
        "weight_decay", self.weight_decay, "decoupled; not for biases, gains");
    visit("clip_norm", self.clip_norm, "largest gradient norm; 0: no clipping");
    visit(
        "accumulate",
        self.accumulate,
        "micro-batches per optimiser step",
        base::Range{1, 1'000'000});
  }
  bool operator==(const OptimizerConfig&) const = default;
};

struct ScheduleConfig {
  std::string kind = "constant";
  std::int64_t warmup_steps = -1;
  double decay_share = 0.2;
  double final_ratio = 0.1;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("kind", self.kind, "constant, cosine, or wsd (warmup-stable-decay)");
    visit(
        "warmup_steps",
        self.warmup_steps,
        "steps of linear warm-up; -1: a twentieth of all steps",
        base::Range{-1, kMostSteps});
    visit(
        "decay_share",
        self.decay_share,
        "last share of steps that decay (wsd)");
    visit(
        "final_ratio", self.final_ratio, "last rate / peak rate (cosine, wsd)");
  }
  // Of a run of `steps`: warmup_steps with its default resolved.
  std::int64_t warmup(std::int64_t steps) const;
  bool operator==(const ScheduleConfig&) const = default;
};

struct TrainConfig {
  std::string preset = "none";
  std::string flops = "causal";
  models::ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  std::int64_t steps = 1000;
  std::int64_t log_every = 10;
  std::int64_t eval_every = 100;
  std::int64_t eval_batches = 20;
  std::int64_t checkpoint_every = 500;
  std::int64_t keep_checkpoints = 2;
  std::uint64_t seed = 0;
  std::string device = "auto";
  std::string dtype = "auto";
  bool cuda_graph = true;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        "preset",
        self.preset,
        "paper: the paper's choices for this kind of model are the defaults of "
        "all other keys (docs/training.md)");
    visit(
        "flops",
        self.flops,
        "of attention: causal counts what the mask leaves, paper the full "
        "square, as the paper's code does");
    visit("model", self.model, "the network");
    visit("data", self.data, "what it learns from");
    visit("optimizer", self.optimizer, "AdamW");
    visit("schedule", self.schedule, "learning rate over time");
    visit("steps", self.steps, "optimiser steps", base::Range{1, kMostSteps});
    visit(
        "log_every",
        self.log_every,
        "steps per row of log.jsonl",
        base::Range{1, kMostSteps});
    visit(
        "eval_every",
        self.eval_every,
        "steps; 0: only at the end",
        base::Range{0, kMostSteps});
    visit(
        "eval_batches",
        self.eval_batches,
        "batches per evaluation",
        base::Range{1, 1'000'000});
    visit(
        "checkpoint_every",
        self.checkpoint_every,
        "steps; 0: only at the end; -1: only when stopped before it",
        base::Range{-1, kMostSteps});
    visit(
        "keep_checkpoints",
        self.keep_checkpoints,
        "newest checkpoints kept",
        base::Range{1, 1'000'000});
    visit("seed", self.seed, "of weights and data order");
    visit("device", self.device, "auto, cpu, cuda or cuda:N");
    visit("dtype", self.dtype, "auto, float32 or bfloat16 (autocast)");
    visit(
        "cuda_graph",
        self.cuda_graph,
        "on a GPU, record a step once and repeat it (docs/training.md)");
  }
  // Before the keys of `json` are read: their defaults, where it has a preset.
  static void prepare(TrainConfig& config, base::Json& json);
  // Throws base::InvalidInput that names the key, what was expected and came.
  void validate() const;
  bool operator==(const TrainConfig&) const = default;
};

}  // namespace einforge::train
