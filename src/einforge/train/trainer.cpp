#include "einforge/train/trainer.h"

#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>

#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/models/model.h"
#include "einforge/train/adamw.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/device.h"
#include "einforge/train/load_model.h"
#include "einforge/train/resume.h"
#include "einforge/train/router_watch.h"
#include "einforge/train/run_lock.h"
#include "einforge/train/run_log.h"
#include "einforge/train/schedule.h"
#include "einforge/train/task.h"

namespace einforge::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

void print_warning(const std::string& message) {
  // Over the progress bar, which then redraws itself.
  const char* clear = ::isatty(STDERR_FILENO) == 1 ? "\r\x1b[K" : "";
  fmt::print(stderr, "{}einforge: warning: {}\n", clear, message);
}

// A mean that a checkpoint can hold.
struct Mean {
  double sum = 0;
  std::int64_t count = 0;

  double take() {
    const double mean = count > 0 ? sum / static_cast<double>(count) : kUnknown;
    *this = {};
    return mean;
  }
  base::Json to_json() const { return {{"sum", sum}, {"count", count}}; }
  static Mean from_json(const base::Json& json) {
    return {json.at("sum").get<double>(), json.at("count").get<std::int64_t>()};
  }
};

class Trainer {
 public:
  Trainer(const TrainConfig& config, const TrainOptions& options);
  TrainResult run();

 private:
  void resume();
  // One pass that changes nothing, before the clock starts.
  void warm_up();
  void step();
  // Starts and ends profiling, between steps.
  void profile();
  // Waits for the device, adds the losses since the last call to the means and
  // the time to the clock; false when a loss was not finite.
  bool settle();
  void warn(const std::string& message) const {
    (options_.on_warning ? options_.on_warning : print_warning)(message);
  }
  // Notes what the routers did with the last micro-batch, for log().
  void watch_routers();
  void log(double val_loss);
  void evaluate();
  void checkpoint();
  void start_progress();
  base::Json routers() const;
  TrainResult result(Outcome outcome, std::string reason = "") const;

  double flops() const {
    return static_cast<double>(step_) * summary_.flops_per_token *
           static_cast<double>(summary_.tokens_per_step);
  }

  const TrainConfig& config_;
  const TrainOptions& options_;
  TaskShape shape_;
  ModelSummary summary_;
  torch::Device device_;
  torch::ScalarType dtype_;
  RunLock lock_;
  CheckpointFolder checkpoints_;
  std::unique_ptr<Task> task_;
  std::shared_ptr<models::Model> model_;
  std::vector<nn::Parameter> parameters_;
  AdamW optimizer_;
  RouterWatch routers_;
  std::optional<RunLog> log_;
  std::optional<base::Progress> progress_;
  std::optional<ProfileWindow> profile_window_;
  std::optional<Profiler> profiler_;
  double profile_seconds_ = 0;  // at its timed_from, a step's from its from on

  std::int64_t step_ = 0;
  double seconds_ = 0;
  double val_loss_ = kUnknown;
  double last_loss_ = kUnknown;
  Mean since_log_;
  Mean since_point_;
  // As of the last watch_routers(), and its warnings.
  std::vector<RouterRow> router_rows_;
  std::int64_t router_step_ = 0;
  std::vector<std::string> row_warnings_;
  RouterWarnings warnings_;
  torch::Tensor loss_sum_;  // float64, on the device, since the last settle()
  std::int64_t loss_count_ = 0;
  Clock::time_point mark_ = Clock::now();
  // Where tokens per second are counted from.
  std::int64_t rate_step_ = 0;
  double rate_seconds_ = 0;
  double peak_flops_ = 0;
  std::string note_;
};

std::uint64_t micro_batch_seed(std::uint64_t seed, std::int64_t index) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  return seed * kGolden + static_cast<std::uint64_t>(index);
}

std::shared_ptr<models::Model> build(
    const TrainConfig& config, const TaskShape& shape, torch::Device device) {
  auto model = models::make_model(
      config.model,
      shape.inputs,
      shape.outputs,
      config.optimizer.base_width,
      config.seed);
  model->to(device);
  return model;
}

const std::filesystem::path& made(const std::filesystem::path& directory) {
  base::check(
      !directory.empty(), "train: expected a folder for the run; got none");
  base::make_directory(directory);
  return directory;
}

Trainer::Trainer(const TrainConfig& config, const TrainOptions& options)
    : config_(config),
      options_(options),
      shape_(task_shape(config)),
      summary_(summarise(config)),
      device_(resolve_device(config.device)),
      dtype_(resolve_dtype(config.dtype, device_)),
      lock_(made(options.directory)),
      checkpoints_(options.directory / "checkpoints"),
      task_(make_task(config, device_)),
      model_(build(config, shape_, device_)),
      parameters_(model_->trainable()),
      optimizer_(parameters_, config.optimizer),
      routers_(*model_),
      loss_sum_(
          torch::zeros({}, torch::dtype(torch::kFloat64).device(device_))) {
  base::check(
      options.resume || checkpoints_.steps().empty(),
      "'{}' holds a run already; resume it or choose another folder",
      options.directory.string());
  if (options.resume) {
    resume();
  }
  base::write_file_atomically(
      options.directory / "config.json", base::to_json(config).dump(2) + "\n");
  log_.emplace(options.directory, step_ > 0 ? step_ : -1);
}

void Trainer::resume() {
  const auto checkpoint = checkpoints_.newest(
      [this](const std::string& message) { warn(message); });
  if (!checkpoint) {
    return;
  }
  const base::Json& state = checkpoint->state;
  check_same_run(config_, shape_.identity, *checkpoint);
  load_tensors(
      checkpoint->model,
      checkpoint->path / "model.safetensors",
      state_tensors(*model_));
  load_tensors(
      checkpoint->optimizer,
      checkpoint->path / "optimizer.safetensors",
      optimizer_.tensors());
  step_ = checkpoint->step;
  try {
    seconds_ = state.at("seconds").get<double>();
    val_loss_ = state.at("val_loss").get<double>();
    since_log_ = Mean::from_json(state.at("since_log"));
    since_point_ = Mean::from_json(state.at("since_point"));
    if (const auto found = state.find("router_watch"); found != state.end()) {
      warnings_.restore(*found);
    }
  } catch (const base::Json::exception& error) {
    throw base::InvalidInput(fmt::format(
        "'{}': its state.json lacks something: {}",
        checkpoint->path.string(),
        error.what()));
  }
  const int threads = state.value("threads", torch::get_num_threads());
  if (threads != torch::get_num_threads() && device_.is_cpu()) {
    warn(fmt::format(
        "the run began with {} threads and goes on with {}; its weights will "
        "differ in the last bits from an uninterrupted run's",
        threads,
        torch::get_num_threads()));
  }
}

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

void Trainer::step() {
  const std::int64_t accumulate = config_.optimizer.accumulate;
  for (std::int64_t i = 0; i < accumulate; ++i) {
    const std::int64_t index = step_ * accumulate + i;
    const data::Batch batch = task_->train(index);
    if (config_.model.moe.router.jitter > 0 && !routers_.empty()) {
      // What is drawn depends on the micro-batch alone, as in all batches.
      torch::manual_seed(micro_batch_seed(config_.seed, index));
    }
    torch::Tensor loss;
    {
      const Autocast autocast(device_, dtype_);
      loss = model_->loss(batch.x, batch.y);
    }
    loss_sum_.add_(loss.detach());
    ++loss_count_;
    if (const torch::Tensor auxiliary = routers_.loss(); auxiliary.defined()) {
      loss = loss + auxiliary;
    }
    if (accumulate > 1) {
      loss = loss / static_cast<double>(accumulate);
    }
    loss.backward();
  }
  const double factor = rate_factor(config_.schedule, step_, config_.steps);
  ++step_;
  optimizer_.step(step_, factor);
  routers_.update_biases();
}

void Trainer::profile() {
  if (!profile_window_) {
    return;
  }
  const auto [timed_from, from, to] = *profile_window_;
  if (step_ == timed_from && timed_from < from) {
    settle();
    profile_seconds_ = seconds_;
  }
  if (step_ == from) {
    settle();
    profile_seconds_ =
        (seconds_ - profile_seconds_) / static_cast<double>(from - timed_from);
    profiler_.emplace(device_);
    mark_ = Clock::now();
  }
  if (step_ == to) {
    settle();
    const Profile found = profiler_->stop(
        to - from,
        timed_from < from ? std::optional(1e3 * profile_seconds_)
                          : std::nullopt,
        options_.directory / "profile.json");
    base::write_file_atomically(
        options_.directory / "profile_summary.json",
        to_json(found).dump(2) + "\n");
    profiler_.reset();
    profile_window_.reset();
    if (options_.on_profile) {
      options_.on_profile(found);
    }
    mark_ = Clock::now();
  }
}

bool Trainer::settle() {
  const double sum = loss_sum_.item<double>();  // waits for the device
  const auto now = Clock::now();
  seconds_ += std::chrono::duration<double>(now - mark_).count();
  mark_ = now;
  if (loss_count_ > 0) {
    last_loss_ = sum / static_cast<double>(loss_count_);
    for (Mean* mean : {&since_log_, &since_point_}) {
      mean->sum += sum;
      mean->count += loss_count_;
    }
    loss_sum_.zero_();
    loss_count_ = 0;
  }
  return std::isfinite(sum);
}

void Trainer::watch_routers() {
  router_rows_ = routers_.look();
  router_step_ = step_;
  row_warnings_.clear();
  std::vector<RouterWarning> found;
  // All routers start at zero, where the first experts take everything; they
  // have the warm-up to part.
  if (step_ > config_.schedule.warmup(config_.steps)) {
    for (const RouterRow& row : router_rows_) {
      for (RouterWarning& warning : find_warnings(row, step_)) {
        row_warnings_.push_back(warning.message());
        found.push_back(std::move(warning));
      }
    }
  }
  // An evaluation's row may be close to the one before.
  if (step_ % config_.log_every != 0) {
    return;
  }
  for (const RouterWarning& warning : warnings_.add(found)) {
    warn(to_json(warning)["message"].get<std::string>());
  }
}

void Trainer::log(double val_loss) {
  LogRow row;
  if (router_step_ == step_) {
    row.routers = router_rows_;
    row.warnings = row_warnings_;
  }
  row.step = step_;
  row.tokens = step_ * summary_.tokens_per_step;
  row.flops = flops();
  row.seconds = seconds_;
  row.train_loss = since_log_.take();
  row.val_loss = val_loss;
  if (step_ > 0) {
    row.learning_rate = config_.optimizer.learning_rate *
                        rate_factor(config_.schedule, step_ - 1, config_.steps);
    row.gradient_norm = optimizer_.gradient_norm().item<double>();
    row.peak_memory_bytes = peak_memory_bytes(device_);
  }
  if (step_ > rate_step_ && seconds_ > rate_seconds_) {
    row.tokens_per_second =
        static_cast<double>((step_ - rate_step_) * summary_.tokens_per_step) /
        (seconds_ - rate_seconds_);
    note_ = fmt::format(
        "loss {:.4f} | {} tok/s",
        row.train_loss,
        base::human_count(row.tokens_per_second));
    if (peak_flops_ > 0) {
      note_ += fmt::format(
          " | MFU {:.0f}%",
          100 * row.tokens_per_second * summary_.flops_per_token / peak_flops_);
    }
  }
  rate_step_ = step_;
  rate_seconds_ = seconds_;
  log_->append(row);
}

void Trainer::evaluate() {
  const torch::NoGradGuard no_grad;
  const Autocast autocast(device_, dtype_);
  model_->eval();
  torch::Tensor sum = torch::zeros_like(loss_sum_);
  for (std::int64_t i = 0; i < config_.eval_batches; ++i) {
    const data::Batch batch = task_->validation(i);
    sum.add_(model_->loss(batch.x, batch.y));
  }
  model_->train();
  val_loss_ = sum.item<double>() / static_cast<double>(config_.eval_batches);
  const double train_loss = since_point_.take();
  if (options_.on_point) {
    options_.on_point(
        {.step = step_,
         .tokens = step_ * summary_.tokens_per_step,
         .flops = flops(),
         .seconds = seconds_,
         .train_loss = train_loss,
         .val_loss = val_loss_});
  }
  mark_ = Clock::now();
}

void Trainer::checkpoint() {
  log_->sync();
  checkpoints_.write(
      step_,
      state_tensors(*model_),
      optimizer_.tensors(),
      {{"config", base::to_json(config_)},
       {"task", shape_.identity},
       {"inputs", shape_.inputs},
       {"outputs", shape_.outputs},
       // All that is random is a function of the seed and this; there is no
       // generator whose state would have to be kept.
       {"next_micro_batch", step_ * config_.optimizer.accumulate},
       {"seconds", seconds_},
       {"val_loss", val_loss_},
       {"since_log", since_log_.to_json()},
       {"since_point", since_point_.to_json()},
       {"router_watch", warnings_.state()},
       {"threads", torch::get_num_threads()}},
      config_.keep_checkpoints);
  mark_ = Clock::now();
}

void Trainer::start_progress() {
  if (options_.progress) {
    peak_flops_ = measure_peak_flops(device_, dtype_);
    progress_.emplace("train", config_.steps, step_);
  }
}

base::Json Trainer::routers() const {
  if (router_rows_.empty()) {
    return nullptr;
  }
  base::Json json = {
      {"step", router_step_},
      {"layers", base::Json::array()},
      {"warnings", base::Json::array()}};
  for (const RouterRow& row : router_rows_) {
    json["layers"].push_back(to_json(row));
  }
  for (const RouterWarning& warning : warnings_.lasting()) {
    json["warnings"].push_back(to_json(warning));
  }
  return json;
}

TrainResult Trainer::result(Outcome outcome, std::string reason) const {
  return {
      .outcome = outcome,
      .reason = std::move(reason),
      .steps = step_,
      .final_loss = val_loss_,
      .flops = flops(),
      .seconds = seconds_,
      .routers = routers()};
}

TrainResult Trainer::run() {
  const std::int64_t target =
      options_.stop_at_step < 0
          ? config_.steps
          : std::min(options_.stop_at_step, config_.steps);
  base::check(
      step_ <= config_.steps,
      "steps: expected at least the {} done already; got {}",
      step_,
      config_.steps);
  const Outcome done =
      target == config_.steps ? Outcome::kFinished : Outcome::kPaused;
  if (step_ >= target && step_ > 0) {
    return result(done);
  }
  start_progress();
  rate_step_ = step_;
  rate_seconds_ = seconds_;
  warm_up();
  mark_ = Clock::now();
  if (step_ == 0) {
    evaluate();
    log(val_loss_);
  }
  const auto due_at = [&](std::int64_t step, std::int64_t every) {
    return step == target || (every > 0 && step % every == 0);
  };
  const auto due = [&](std::int64_t every) { return due_at(step_, every); };
  if (options_.profile_steps > 0) {
    profile_window_ = profile_window(
        step_, target, options_.profile_steps, [&](std::int64_t step) {
          return due_at(step, config_.log_every) ||
                 due_at(step, config_.eval_every) ||
                 due_at(step, config_.checkpoint_every);
        });
  }
  while (step_ < target) {
    if (options_.should_stop && options_.should_stop()) {
      if (settle() && step_ > 0) {
        checkpoint();
      }
      return result(Outcome::kInterrupted);
    }
    profile();
    step();
    if (step_ == target) {
      profile();
    }
    const bool eval_now = due(config_.eval_every);
    const bool checkpoint_now =
        due(config_.checkpoint_every) &&
        (config_.checkpoint_every >= 0 || target < config_.steps);
    if (eval_now || checkpoint_now || due(config_.log_every)) {
      if (!settle()) {
        log(kUnknown);
        return result(
            Outcome::kDiverged,
            fmt::format("the loss was {} by step {}", last_loss_, step_));
      }
    }
    if (eval_now || due(config_.log_every)) {
      watch_routers();
    }
    if (eval_now) {
      evaluate();
    }
    if (eval_now || due(config_.log_every)) {
      log(eval_now ? val_loss_ : kUnknown);
    }
    if (eval_now && !std::isfinite(val_loss_)) {
      return result(
          Outcome::kDiverged,
          fmt::format(
              "the validation loss was {} by step {}", val_loss_, step_));
    }
    if (checkpoint_now) {
      checkpoint();
    }
    if (options_.on_step) {
      options_.on_step(step_, last_loss_);
    }
    if (progress_) {
      progress_->update(step_, note_);
    }
  }
  return result(done);
}

}  // namespace

TrainResult train(const TrainConfig& config, const TrainOptions& options) {
  config.validate();
  return Trainer(config, options).run();
}

}  // namespace einforge::train
