#include "einforge/train/config.h"

#include <cmath>

#include "einforge/base/error.h"

namespace einforge::train {
namespace {

void check_at_least(
    const char* key, std::int64_t value, std::int64_t smallest) {
  base::check(
      value >= smallest,
      "{}: expected at least {}; got {}",
      key,
      smallest,
      value);
}

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

}  // namespace

std::int64_t ScheduleConfig::warmup(std::int64_t steps) const {
  return warmup_steps < 0 ? (steps + 10) / 20 : warmup_steps;
}

void TrainConfig::validate() const {
  model.validate();
  check_at_least("data.batch_size", data.batch_size, 1);
  check_positive("optimizer.learning_rate", optimizer.learning_rate);
  check_at_least("optimizer.base_width", optimizer.base_width, 1);
  check_share("optimizer.beta1", optimizer.beta1, /*open=*/true);
  check_share("optimizer.beta2", optimizer.beta2, /*open=*/true);
  check_positive("optimizer.epsilon", optimizer.epsilon);
  check_not_negative("optimizer.weight_decay", optimizer.weight_decay);
  check_not_negative("optimizer.clip_norm", optimizer.clip_norm);
  check_at_least("optimizer.accumulate", optimizer.accumulate, 1);
  base::check(
      schedule.kind == "constant" || schedule.kind == "cosine" ||
          schedule.kind == "wsd",
      "schedule.kind: expected constant, cosine or wsd; got '{}'",
      schedule.kind);
  check_at_least("schedule.warmup_steps", schedule.warmup_steps, -1);
  check_share("schedule.decay_share", schedule.decay_share);
  check_share("schedule.final_ratio", schedule.final_ratio);
  check_at_least("steps", steps, 1);
  check_at_least("log_every", log_every, 1);
  check_at_least("eval_every", eval_every, 0);
  check_at_least("eval_batches", eval_batches, 1);
  check_at_least("checkpoint_every", checkpoint_every, -1);
  check_at_least("keep_checkpoints", keep_checkpoints, 1);
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
