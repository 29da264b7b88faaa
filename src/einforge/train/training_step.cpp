#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/train/device.h"
#include "einforge/train/divergence.h"
#include "einforge/train/schedule.h"
#include "einforge/train/training_run.h"

namespace einforge::train {
namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t micro_batch_seed(std::uint64_t seed, std::int64_t index) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  return seed * kGolden + static_cast<std::uint64_t>(index);
}

}  // namespace

// On a GPU the first pass loads kernels, makes handles and tunes layers, which
// no step after it does.
void Trainer::warm_up() {
  if (!device_.is_cuda()) {
    return;
  }
  const data::Batch batch = task_->validation(0);
  torch::Tensor loss;
  model_->eval();  // the load of routers stays as it is
  {
    const Autocast autocast(device_, dtype_);
    loss = model_->loss(batch.x, batch.y);
  }
  loss.backward();
  model_->train();
  for (const nn::Parameter& parameter : parameters_) {
    torch::Tensor tensor = parameter.tensor;
    tensor.mutable_grad().reset();
  }
  torch::cuda::synchronize(device_.index());
}

void Trainer::learn(const data::Batch& batch) {
  torch::Tensor loss;
  {
    const Autocast autocast(device_, dtype_);
    loss = model_->loss(batch.x, batch.y);
  }
  loss_sum_.add_(loss.detach());
  if (const torch::Tensor auxiliary = routers_.loss(); auxiliary.defined()) {
    loss = loss + auxiliary;
  }
  with_routers_sum_.add_(loss.detach());
  const std::int64_t parts = config_.optimizer.accumulate * world_.size();
  if (parts > 1) {
    loss = loss / static_cast<double>(parts);
  }
  loss.backward();
}

void Trainer::update() {
  gradients_.finish();
  optimizer_.update();
  routers_.update_biases();
}

// Everything that a step keeps is written in place: a repetition changes no
// tensor's address, and what a graph made lies where the host saw it last.
void Trainer::record() {
  records_ = false;  // it is done once
  std::string reason;
  if (!world_.is_alone()) {
    reason = "several processes train together";
  } else if (draws()) {
    reason = "model.moe.router.jitter draws other numbers in each step";
  } else {
    torch::cuda::synchronize(device_.index());
    state_.seconds +=
        std::chrono::duration<double>(Clock::now() - mark_).count();
    try {
      Recording& r = recording_.emplace(device_);
      r.batch = task_->train(0);
      r.learn = r.graphs.record([&] { learn(r.batch); });
      if (config_.optimizer.accumulate > 1) {
        r.learn_more = r.graphs.record([&] { learn(r.batch); });
      }
      r.update = r.graphs.record([&] { update(); });
      if (!routers_.empty()) {
        r.look =
            r.graphs.record([&] { r.health_sums = routers_.health_sums(); });
      }
    } catch (const std::exception& error) {
      reason = base::message_of(error);
      for (const nn::Parameter& parameter : parameters_) {
        torch::Tensor tensor = parameter.tensor;
        tensor.mutable_grad().reset();
      }
      recording_.reset();
    }
    mark_ = Clock::now();
  }
  if (!reason.empty()) {
    warn(fmt::format("no CUDA graph of the steps: {}", reason));
  }
}

bool Trainer::draws() const {
  return config_.model.moe.router.jitter > 0 && !routers_.empty();
}

void Trainer::step() {
  // Some steps first, so that all that happens once has happened.
  constexpr std::int64_t kStepsBefore = 2;
  if (records_ && steps_here_ >= kStepsBefore && !profiler_) {
    record();
  }
  const std::int64_t accumulate = config_.optimizer.accumulate;
  for (std::int64_t i = 0; i < accumulate; ++i) {
    const std::int64_t index = state_.step * accumulate + i;
    const data::Batch batch = task_->train(index);
    if (recording_) {
      const Recording& r = *recording_;
      r.batch.x.copy_(batch.x);
      r.batch.y.copy_(batch.y);
      r.graphs.repeat(i == 0 ? r.learn : r.learn_more);
    } else {
      if (draws()) {
        // What is drawn depends on the micro-batch alone, as in all batches,
        // and on which part of it this process has.
        torch::manual_seed(micro_batch_seed(
            config_.seed, index * world_.size() + world_.rank()));
      }
      if (i + 1 == accumulate) {
        gradients_.expect();
      }
      learn(batch);
    }
    ++loss_count_;
  }
  const double factor =
      rate_factor(config_.schedule, state_.step, config_.steps);
  ++state_.step;
  ++steps_here_;
  optimizer_.prepare(state_.step, factor);
  if (recording_) {
    recording_->graphs.repeat(recording_->update);
  } else {
    update();
  }
}

// On GPUs it asks only where their results are waited for anyway.
bool Trainer::should_stop() {
  const bool asked = options_.should_stop && options_.should_stop();
  if (world_.is_alone()) {
    return asked;
  }
  return (device_.is_cpu() || state_.step % config_.log_every == 0) &&
         world_.sum(asked ? 1.0 : 0.0) > 0;
}

void Trainer::profile() {
  if (!profile_window_) {
    return;
  }
  const auto [timed_from, from, to] = *profile_window_;
  const std::string rank =
      world_.is_first() ? "" : fmt::format("_rank_{}", world_.rank());
  if (state_.step == timed_from && timed_from < from) {
    settle();
    profile_seconds_ = state_.seconds;
  }
  if (state_.step == from) {
    settle();
    profile_seconds_ = (state_.seconds - profile_seconds_) /
                       static_cast<double>(from - timed_from);
    profiler_.emplace(device_);
    mark_ = Clock::now();
  }
  if (state_.step == to) {
    settle();
    const Profile found = profiler_->stop(
        to - from,
        timed_from < from ? std::optional(1e3 * profile_seconds_)
                          : std::nullopt,
        options_.directory / fmt::format("profile{}.json", rank));
    base::write_file_atomically(
        options_.directory / fmt::format("profile_summary{}.json", rank),
        to_json(found).dump(2) + "\n");
    profiler_.reset();
    profile_window_.reset();
    if (options_.on_profile && world_.is_first()) {
      options_.on_profile(found);
    }
    mark_ = Clock::now();
  }
}

std::string Trainer::settle() {
  const torch::Tensor losses = at::stack({loss_sum_, with_routers_sum_});
  world_.sum(losses);
  // One copy, which waits for the device.
  const torch::Tensor read =
      at::cat({losses / static_cast<double>(world_.size()),
               optimizer_.failed_step().to(torch::kFloat64).view({1})})
          .cpu();
  const double* values = read.const_data_ptr<double>();
  const auto now = Clock::now();
  state_.seconds += std::chrono::duration<double>(now - mark_).count();
  mark_ = now;
  double with_routers = state_.last_loss;
  if (loss_count_ > 0) {
    const auto count = static_cast<double>(loss_count_);
    state_.last_loss = values[0] / count;
    with_routers = values[1] / count;
    for (Mean* mean : {&state_.since_log, &state_.since_point}) {
      mean->sum += values[0];
      mean->count += loss_count_;
    }
    loss_sum_.zero_();
    with_routers_sum_.zero_();
    loss_count_ = 0;
  }
  if (values[2] > 0) {
    return fmt::format(
        "the gradient norm was not finite, or too large for float32, in step "
        "{:.0f}",
        values[2]);
  }
  if (!std::isfinite(values[0])) {
    return fmt::format(
        "the loss was {} by step {}", state_.last_loss, state_.step);
  }
  return runaway(
      state_.last_loss, with_routers, shape_.untrained_loss, state_.step);
}

void Trainer::watch_routers() {
  state_.router_rows.clear();
  if (recording_ && !routers_.empty()) {
    recording_->graphs.repeat(recording_->look);
    state_.router_rows = routers_.rows(recording_->health_sums);
  } else if (!routers_.empty()) {
    state_.router_rows = routers_.rows(routers_.health_sums());
  }
  state_.router_step = state_.step;
  row_warnings_.clear();
  std::vector<RouterWarning> found;
  // Routers that start at zero have the warm-up to part: at first the first
  // experts take everything.
  if (state_.step > config_.schedule.warmup(config_.steps)) {
    for (const RouterRow& row : state_.router_rows) {
      for (RouterWarning& warning : find_warnings(row, state_.step)) {
        row_warnings_.push_back(warning.message());
        found.push_back(std::move(warning));
      }
    }
  }
  // An evaluation's row may be close to the one before.
  if (state_.step % config_.log_every != 0) {
    return;
  }
  for (const RouterWarning& warning : state_.warnings.add(found)) {
    warn(to_json(warning)["message"].get<std::string>());
  }
}

void Trainer::log(double val_loss) {
  LogRow row;
  if (state_.router_step == state_.step) {
    row.routers = state_.router_rows;
    row.warnings = row_warnings_;
  }
  row.step = state_.step;
  row.tokens = state_.step * summary_.tokens_per_step;
  row.flops = flops();
  row.seconds = state_.seconds;
  row.train_loss = state_.since_log.take();
  row.val_loss = val_loss;
  if (state_.step > 0) {
    row.learning_rate =
        config_.optimizer.learning_rate *
        rate_factor(config_.schedule, state_.step - 1, config_.steps);
    row.gradient_norm = optimizer_.gradient_norm().item<double>();
    row.peak_memory_bytes = peak_memory_bytes(device_);
  }
  if (state_.step > rate_step_ && state_.seconds > rate_seconds_) {
    row.tokens_per_second =
        static_cast<double>(
            (state_.step - rate_step_) * summary_.tokens_per_step) /
        (state_.seconds - rate_seconds_);
    note_ = fmt::format(
        "loss {:.4f} | {} tokens/s",
        row.train_loss,
        base::human_count(row.tokens_per_second));
    if (peak_flops_ > 0) {
      note_ += fmt::format(
          " | MFU {:.0f}%",
          100 * row.tokens_per_second * summary_.flops_per_token / peak_flops_);
    }
  }
  rate_step_ = state_.step;
  rate_seconds_ = state_.seconds;
  if (log_) {
    log_->append(row);
  }
}

void Trainer::evaluate() {
  const torch::NoGradGuard no_grad;
  torch::Tensor sum = torch::zeros_like(loss_sum_);
  const auto add_losses = [&] {
    const RouterWatch::Aside aside(routers_);
    const Autocast autocast(device_, dtype_);
    for (std::int64_t i = world_.rank(); i < config_.eval_batches;
         i += world_.size()) {
      const data::Batch batch = task_->validation(i);
      sum.add_(model_->loss(batch.x, batch.y));
    }
  };
  model_->eval();
  if (recording_) {
    recording_->graphs.lend_memory(add_losses);
  } else {
    add_losses();
  }
  world_.sum(sum);
  model_->train();
  state_.val_loss =
      sum.item<double>() / static_cast<double>(config_.eval_batches);
  const double train_loss = state_.since_point.take();
  if (options_.on_point && world_.is_first()) {
    options_.on_point(
        {.step = state_.step,
         .tokens = state_.step * summary_.tokens_per_step,
         .flops = flops(),
         .seconds = state_.seconds,
         .train_loss = train_loss,
         .val_loss = state_.val_loss});
  }
  mark_ = Clock::now();
}

void Trainer::watch_load() {
  // The other processes of a run are no strangers.
  if (device_.is_cuda() || warned_of_load_ || !world_.is_alone()) {
    return;
  }
  const std::string reason =
      loaded(load_.others(), load_.cpus(), torch::get_num_threads());
  if (!reason.empty()) {
    warned_of_load_ = true;
    warn(reason);
  }
}

}  // namespace einforge::train
