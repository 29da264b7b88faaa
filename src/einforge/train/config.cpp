#include "einforge/train/config.h"

#include <cmath>

#include "einforge/base/error.h"

namespace einforge::train {
namespace {

// `open` excludes 1, which no moving average can have.
void check_share(const char* key, double value, bool open = false) {
  base::check(
      value >= 0 && (open ? value < 1 : value <= 1),
      "{}: expected 0 to 1{}; got {}",
      key,
      open ? ", below 1" : "",
      value);
}

void check_positive(const char* key, double value) {
  base::check(
      value > 0 && std::isfinite(value),
      "{}: expected more than 0; got {}",
      key,
      value);
}

void check_not_negative(const char* key, double value) {
  base::check(
      value >= 0 && std::isfinite(value),
      "{}: expected at least 0; got {}",
      key,
      value);
}

// What the paper's experiments have, where it is not einforge's default anyway.
// Source: arXiv 2410.02117, appendix, and its public code.
void set_paper(const std::string& kind, TrainConfig& config) {
  base::check(
      kind != "mlp",
      "preset: paper has no model.kind mlp; its student of the regression task "
      "is residual_mlp");
  config.flops = "paper";
  config.model.kind = kind;
  config.model.layers = 3;
  config.model.ffn_multiple = 4;
  config.model.moe.router.reduce = "mean";
  config.optimizer.epsilon = 1e-8;
  config.optimizer.weight_decay = 0;
  config.optimizer.accumulate = 1;
  config.optimizer.beta1 = 0.9;
  if (kind == "residual_mlp") {
    config.model.width = 64;
    config.model.bias = true;
    config.model.rms_cap = false;
    config.data.teacher = "paper";
    config.data.batch_size = 4096;
    config.optimizer.learning_rate = 1e-3;
    config.optimizer.base_width = 64;
    config.optimizer.base_ffn_multiple = 4;
    config.optimizer.beta2 = 0.999;
    config.optimizer.clip_norm = 0;
    config.schedule = {.kind = "cosine", .warmup_steps = 0, .final_ratio = 0};
    config.steps = 1'000'000;
    return;
  }
  config.model.context = 128;
  config.model.head_width = 64;
  config.model.bias = false;
  config.model.embedding_std = 0.02;
  config.model.rms_cap = true;
  config.data.batch_size = 512;
  config.optimizer.learning_rate = 3e-3;
  config.optimizer.base_width = 768;
  config.optimizer.base_ffn_multiple = 1;
  config.optimizer.beta2 = 0.95;
  config.optimizer.clip_norm = 1;
  config.schedule = {.kind = "constant", .warmup_steps = 2000};
  config.steps = 100'000;
}

}  // namespace

std::int64_t ScheduleConfig::warmup(std::int64_t steps) const {
  return warmup_steps < 0 ? (steps + 10) / 20 : warmup_steps;
}

void TrainConfig::prepare(TrainConfig& config, base::Json& json) {
  const auto text = [&](const char* pointer, const std::string& otherwise) {
    const base::Json::json_pointer place(pointer);
    return json.contains(place) && json[place].is_string()
               ? json[place].get<std::string>()
               : otherwise;
  };
  // From then on all its choices are the other keys'.
  if (text("/preset", "") == "paper") {
    set_paper(text("/model/kind", config.model.kind), config);
    json.erase("preset");
  }
}

void TrainConfig::validate() const {
  base::check(
      preset == "none", "preset: expected none or paper; got '{}'", preset);
  base::check(
      flops == "causal" || flops == "paper",
      "flops: expected causal or paper; got '{}'",
      flops);
  base::check_ranges(*this);
  model.validate();
  base::check(
      data.teacher == "biased" || data.teacher == "paper",
      "data.teacher: expected biased or paper; got '{}'",
      data.teacher);
  check_positive("optimizer.learning_rate", optimizer.learning_rate);
  base::check(
      optimizer.base_ffn_multiple >= 1 && optimizer.base_ffn_multiple <= 64,
      "optimizer.base_ffn_multiple: expected 1 to 64; got {}",
      optimizer.base_ffn_multiple);
  check_share("optimizer.beta1", optimizer.beta1, /*open=*/true);
  check_share("optimizer.beta2", optimizer.beta2, /*open=*/true);
  check_positive("optimizer.epsilon", optimizer.epsilon);
  check_not_negative("optimizer.weight_decay", optimizer.weight_decay);
  check_not_negative("optimizer.clip_norm", optimizer.clip_norm);
  base::check(
      schedule.kind == "constant" || schedule.kind == "cosine" ||
          schedule.kind == "wsd",
      "schedule.kind: expected constant, cosine or wsd; got '{}'",
      schedule.kind);
  check_share("schedule.decay_share", schedule.decay_share);
  check_share("schedule.final_ratio", schedule.final_ratio);
  base::check(
      device == "auto" || device == "cpu" || device.starts_with("cuda"),
      "device: expected auto, cpu, cuda or cuda:N; got '{}'",
      device);
  base::check(
      dtype == "auto" || dtype == "float32" || dtype == "bfloat16",
      "dtype: expected auto, float32 or bfloat16; got '{}'",
      dtype);
}

}  // namespace einforge::train
