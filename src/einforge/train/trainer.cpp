#include "einforge/train/trainer.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/data/codec.h"
#include "einforge/ops/peak_memory.h"
#include "einforge/train/device.h"
#include "einforge/train/divergence.h"
#include "einforge/train/load_model.h"
#include "einforge/train/resume.h"
#include "einforge/train/training_run.h"

namespace einforge::train {
namespace {

using Clock = std::chrono::steady_clock;

// What distinguishes this run from others: the settings that differ from their
// defaults, and those that nearly always do.
base::Json settings(const TrainConfig& config) {
  const base::Json defaults = base::to_json(TrainConfig{}).flatten();
  const base::Json own = base::to_json(config).flatten();
  base::Json chosen = base::Json::object();
  for (const auto& item : own.items()) {
    const std::string& key = item.key();
    if (item.value() != defaults.at(key) || key == "/model/width" ||
        key == "/model/structure/all" || key == "/optimizer/learning_rate" ||
        key == "/seed") {
      std::string name = key.substr(1);
      std::ranges::replace(name, '/', '.');
      chosen[name] = item.value();
    }
  }
  return chosen;
}

std::map<std::string, std::string> read_tokenizer(
    const TrainConfig& config, const TaskShape& shape) {
  const auto found = shape.identity.find("tokenizer");
  if (found == shape.identity.end()) {
    return {};
  }
  data::TokenizerInfo info;
  base::update_from_json(info, *found);
  return {{info.file, data::read_tokenizer(info, config.data.path)}};
}

std::shared_ptr<models::Model> build(
    const TrainConfig& config, const TaskShape& shape, torch::Device device) {
  auto model = models::make_model(
      config.model,
      shape.inputs,
      shape.outputs,
      base_model(config),
      config.seed);
  model->to(device);
  return model;
}

std::optional<base::FolderLock> lock(
    distributed::World& world, const std::filesystem::path& directory) {
  std::optional<base::FolderLock> held;
  world.on_first([&] {
    base::check(
        !directory.empty(), "train: expected a folder for the run; got none");
    base::make_directory(directory);
    held.emplace(directory);
  });
  return held;
}

torch::Device device_of(
    const TrainConfig& config, const distributed::World& world) {
  check_parts(config, world.size());
  const torch::Device device = resolve_device(
      config.device,
      world.is_alone() ? std::nullopt : std::optional(world.local_rank()));
  if (device.is_cuda()) {
    // What names no GPU takes this one, not the first.
    c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
    // Of this run, not of those before it in the process.
    ops::restart_peak_memory(device);
  }
  return device;
}

// The same for all runs of this thread, as torch keeps memory by stream.
std::optional<c10::Stream> own_stream(torch::Device device, bool wanted) {
  if (!wanted) {
    return std::nullopt;
  }
  thread_local std::unordered_map<torch::Device, c10::Stream> streams;
  const auto known = streams.find(device);
  if (known != streams.end()) {
    return known->second;
  }
  const c10::impl::VirtualGuardImpl guard(device.type());
  return streams.emplace(device, guard.getStreamFromGlobalPool(device))
      .first->second;
}

std::vector<torch::Tensor> tensors_of(
    const std::vector<nn::Parameter>& parameters) {
  std::vector<torch::Tensor> tensors;
  for (const nn::Parameter& parameter : parameters) {
    tensors.push_back(parameter.tensor);
  }
  return tensors;
}

}  // namespace

void Trainer::warn(const std::string& message) const {
  if (!world_.is_first()) {
    return;
  }
  if (options_.on_warning) {
    options_.on_warning(message);
  } else {
    base::warn(message);
  }
}

// All that can refuse a run comes before the first thing that changes its
// folder.
Trainer::Trainer(const TrainConfig& config, const TrainOptions& options)
    : config_(config),
      options_(options),
      world_(options.world != nullptr ? *options.world : alone_),
      shape_(task_shape(config)),
      summary_(summarise(config)),
      device_(device_of(config, world_)),
      dtype_(resolve_dtype(config.dtype, device_)),
      records_(config.cuda_graph && device_.is_cuda()),
      stream_(own_stream(device_, records_ && world_.is_alone())),
      lock_(lock(world_, options.directory)),
      checkpoints_(
          options.directory / "checkpoints",
          [this](const Checkpoint& checkpoint) { return is_ours(checkpoint); }),
      tokenizer_(read_tokenizer(config, shape_)),
      task_(make_task(config, device_, world_.rank(), world_.size())),
      model_(build(config, shape_, device_)),
      parameters_(model_->trainable()),
      gradients_(world_, tensors_of(parameters_)),
      optimizer_(
          parameters_, config.optimizer, &world_, options.shard_optimizer),
      routers_(*model_, config.model.moe.router.reduce, world_),
      loss_sum_(
          torch::zeros({}, torch::dtype(torch::kFloat64).device(device_))),
      with_routers_sum_(torch::zeros_like(loss_sum_)) {
  if (options.resume) {
    resume();
  }
  world_.on_first([&] {
    base::check(
        options.resume || checkpoints_.steps().empty(),
        "'{}' holds a run already; resume it or choose another folder",
        options.directory.string());
    checkpoints_.sweep();
    base::write_file_atomically(
        options.directory / "config.json",
        base::to_json(config).dump(2) + "\n");
    log_.emplace(
        options.directory,
        state_.step > 0 ? state_.step : -1,
        settings(config));
  });
}

bool Trainer::is_ours(const Checkpoint& checkpoint) const {
  return difference(config_, shape_.identity, checkpoint).empty();
}

// Rank 0 reads; the others may have no such folder.
void Trainer::resume() {
  const NamedTensors weights = state_tensors(*model_);
  NamedTensors moments;
  world_.on_first([&] { moments = read_checkpoint(weights); });
  if (world_.is_alone()) {
    return;
  }
  const std::string told = world_.broadcast(
      base::dump_json({{"step", state_.step}, {"state", state_.to_json()}}));
  const base::Json json = base::parse_json(told, "the state of rank 0");
  const auto step = json.at("step").get<std::int64_t>();
  if (step == 0) {
    return;
  }
  state_ = RunState::from_json(step, json.at("state"));
  for (const auto& [name, tensor] : weights) {
    world_.broadcast(tensor);
  }
  optimizer_.spread(moments);
}

NamedTensors Trainer::read_checkpoint(const NamedTensors& weights) {
  const auto checkpoint = checkpoints_.newest(
      [this](const std::string& message) { warn(message); });
  if (!checkpoint) {
    return {};
  }
  const base::Json& state = checkpoint->state;
  const std::string other = difference(config_, shape_.identity, *checkpoint);
  base::check(other.empty(), "{}", other);
  base::check(
      checkpoint->step <= config_.steps,
      "steps: expected at least the {} done already; got {}",
      checkpoint->step,
      config_.steps);
  try {
    state_ = RunState::from_json(checkpoint->step, state);
  } catch (const base::Json::exception&) {
    throw base::InvalidInput(fmt::format(
        "'{}': expected all of a run's state in state.json; something is "
        "missing",
        checkpoint->path.string()));
  }
  const std::filesystem::path file = checkpoint->path / "model.safetensors";
  load_tensors(checkpoint->model, file, weights);
  check_finite(file, weights);
  NamedTensors moments = optimizer_.whole();
  load_tensors(
      checkpoint->optimizer,
      checkpoint->path / "optimizer.safetensors",
      moments);
  const auto compare = [&](const char* what, int before, int now) {
    if (before != now) {
      warn(fmt::format(
          "{}: {} before, {} now; the weights will differ in the last bits "
          "from an uninterrupted run's",
          what,
          before,
          now));
    }
  };
  if (device_.is_cpu()) {
    const int now = torch::get_num_threads();
    compare("threads", state.value("threads", now), now);
  }
  compare("processes", state.value("processes", 1), world_.size());
  return moments;
}

std::string Trainer::checkpoint() {
  const NamedTensors weights = state_tensors(*model_);
  const NamedTensors moments = optimizer_.gather();
  std::string name;
  for (const NamedTensors* tensors : {&weights, &moments}) {
    if (world_.is_first() && name.empty()) {
      name = not_finite(*tensors);
    }
  }
  name = world_.broadcast(name);
  if (!name.empty()) {
    return fmt::format(
        "'{}' was no longer finite at step {}", name, state_.step);
  }
  world_.on_first([&] { write_checkpoint(weights, moments); });
  mark_ = Clock::now();
  return "";
}

void Trainer::write_checkpoint(
    const NamedTensors& weights, const NamedTensors& moments) {
  log_->sync();
  base::Json json = {
      {"config", base::to_json(config_)},
      {"task", shape_.identity},
      {"inputs", shape_.inputs},
      {"outputs", shape_.outputs},
      // All that is random is a function of the seed and this; there is no
      // generator whose state would have to be kept.
      {"next_micro_batch", state_.step * config_.optimizer.accumulate},
      {"threads", torch::get_num_threads()},
      {"processes", world_.size()}};
  json.update(state_.to_json());
  checkpoints_.write(
      state_.step,
      weights,
      moments,
      std::move(json),
      config_.keep_checkpoints,
      tokenizer_);
}

void Trainer::start_progress() {
  if (options_.progress && world_.is_first()) {
    peak_flops_ = measure_peak_flops(device_, dtype_) * world_.size();
    progress_.emplace("train", config_.steps, state_.step);
  }
}

TrainResult Trainer::result(Outcome outcome, std::string reason) const {
  return {
      .outcome = outcome,
      .reason = std::move(reason),
      .steps = state_.step,
      .final_loss = state_.val_loss,
      .flops = flops(),
      .seconds = state_.seconds,
      .routers = state_.routers()};
}

std::string Trainer::ended_badly() const {
  return ended_worse(
      state_.last_loss, state_.val_loss, shape_.untrained_loss, state_.step);
}

TrainResult Trainer::run() {
  const std::int64_t target =
      options_.stop_at_step < 0
          ? config_.steps
          : std::min(options_.stop_at_step, config_.steps);
  const Outcome done =
      target == config_.steps ? Outcome::kFinished : Outcome::kPaused;
  if (state_.step >= target && state_.step > 0) {
    std::string reason = ended_badly();
    return reason.empty() ? result(done)
                          : result(Outcome::kDiverged, std::move(reason));
  }
  start_progress();
  rate_step_ = state_.step;
  rate_seconds_ = state_.seconds;
  warm_up();
  mark_ = Clock::now();
  if (state_.step == 0) {
    evaluate();
    log(state_.val_loss);
  }
  const auto due_at = [&](std::int64_t step, std::int64_t every) {
    return step == target || (every > 0 && step % every == 0);
  };
  const auto due = [&](std::int64_t every) {
    return due_at(state_.step, every);
  };
  if (options_.profile_steps > 0) {
    profile_window_ = profile_window(
        state_.step, target, options_.profile_steps, [&](std::int64_t step) {
          return due_at(step, config_.log_every) ||
                 due_at(step, config_.eval_every) ||
                 due_at(step, config_.checkpoint_every);
        });
  }
  while (state_.step < target) {
    if (should_stop()) {
      std::string reason = settle();
      if (reason.empty() && state_.step > 0) {
        reason = checkpoint();
      }
      return reason.empty() ? result(Outcome::kInterrupted)
                            : result(Outcome::kDiverged, std::move(reason));
    }
    profile();
    step();
    if (state_.step == target) {
      profile();
    }
    const bool eval_now = due(config_.eval_every);
    const bool log_now = eval_now || due(config_.log_every);
    const bool checkpoint_now =
        due(config_.checkpoint_every) &&
        (config_.checkpoint_every >= 0 || target < config_.steps);
    // Reading what lies on the CPU costs nothing.
    const bool failed =
        device_.is_cpu() && optimizer_.failed_step().item<float>() > 0;
    std::string reason;
    if (log_now || checkpoint_now || failed) {
      reason = settle();
      if (!reason.empty()) {
        log(RunState::kUnknown);
        return result(Outcome::kDiverged, std::move(reason));
      }
    }
    if (log_now) {
      watch_routers();
    }
    if (eval_now) {
      evaluate();
    }
    if (log_now) {
      log(eval_now ? state_.val_loss : RunState::kUnknown);
      watch_load();
    }
    if (eval_now && !std::isfinite(state_.val_loss)) {
      reason = fmt::format(
          "the validation loss was {} by step {}",
          state_.val_loss,
          state_.step);
    } else if (state_.step == target) {
      reason = ended_badly();
    }
    if (reason.empty() && checkpoint_now) {
      reason = checkpoint();
    }
    if (!reason.empty()) {
      return result(Outcome::kDiverged, std::move(reason));
    }
    if (options_.on_step && world_.is_first()) {
      options_.on_step(state_.step, state_.last_loss);
    }
    if (progress_) {
      progress_->update(state_.step, note_);
    }
  }
  return result(done);
}

TrainResult train(const TrainConfig& config, const TrainOptions& options) {
  config.validate();
  return Trainer(config, options).run();
}

}  // namespace einforge::train
