#include "einforge/search/worker.h"

#include <fmt/format.h>
#include <signal.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/search/config.h"
#include "einforge/search/folder.h"
#include "einforge/search/lease.h"
#include "einforge/search/process.h"
#include "einforge/search/scheduler.h"
#include "einforge/search/team.h"
#include "einforge/store/store.h"
#include "einforge/train/recorded_config.h"
#include "einforge/train/trainer.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;

// Async-signal-safe because lock-free.
std::atomic<bool> stop_requested = false;
static_assert(std::atomic<bool>::is_always_lock_free);

// TensorBoard names runs by their folders, and a trial's is its id. Nothing
// depends on the link: a file system without links has none.
void link_for_tensorboard(
    const Folder& folder,
    const Trial& trial,
    const train::TrainConfig& config) {
  std::string name = fmt::format(
      "{} {} lr {:g} seed {} {}",
      trial.structure,
      trial.model,
      trial.learning_rate,
      config.seed,
      trial.id.substr(0, 6));
  std::ranges::replace(name, '/', '_');
  std::error_code ignored;
  std::filesystem::create_directories(folder.tensorboard(), ignored);
  // Beside the links, so that the folder can be moved.
  const std::filesystem::path target =
      folder.checkpoints.empty()
          ? std::filesystem::path("..") / "trials" / trial.id
          : std::filesystem::absolute(folder.trial(trial.id), ignored);
  std::filesystem::create_directory_symlink(
      target, folder.tensorboard() / name, ignored);
}

// Standard output carries events alone: what else is printed there goes to the
// log, with standard error.
class EventStream {
 public:
  EventStream() : file_(::dup(STDOUT_FILENO)) {
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
  }
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;
  ~EventStream() { ::close(file_); }

  void send(const base::Json& event) {
    const std::string line = base::dump_json(event) + "\n";
    // Nobody listens any more when this fails; the search is gone then, and
    // takes this process with it.
    [[maybe_unused]] const ssize_t written =
        ::write(file_, line.data(), line.size());
  }

 private:
  int file_;
};

class Worker {
 public:
  Worker(
      const std::filesystem::path& directory,
      int threads,
      const std::string& device,
      EventStream& events)
      : events_(events),
        device_(device),
        config_(read_config({directory})),
        folder_(folder_of(config_)),
        team_(
            {.size = static_cast<int>(config_.processes_per_trial),
             .threads = threads,
             .device = device,
             .directory = directory,
             .log = folder_.log()}),
        store_(store::Store::open(folder_.store())),
        name_(process_name(::getpid())),
        lease_(config_.lease) {}

  void run() {
    while (!stop_requested) {
      events_.send({{"event", "idle"}});
      const std::string id = read_command();
      if (id.empty()) {
        break;
      }
      const std::optional<Trial> trial = store_.claim(id, name_, lease_);
      if (trial) {
        run_trial(*trial);
      } else {
        events_.send({{"event", "refused"}, {"trial", id}});
      }
    }
    team_.leave();
  }

 private:
  static SearchConfig read_config(const Folder& folder) {
    SearchConfig config;
    base::update_from_json(config, base::read_config_file(folder.config()));
    return config;
  }

  // The trial of a line "train ID"; "" at the end of the input. SIGTERM
  // interrupts the read, which is what it is for.
  static std::string read_command() {
    std::string line;
    for (char letter = 0; ::read(STDIN_FILENO, &letter, 1) == 1;) {
      if (letter == '\n') {
        constexpr std::string_view kTrain = "train ";
        return line.starts_with(kTrain) ? line.substr(kTrain.size()) : "";
      }
      line += letter;
    }
    return "";
  }

  train::TrainConfig train_config(const Trial& trial) const {
    train::TrainConfig config = train::recorded_config(trial.config);
    // Not part of the trial's id: they may have changed since it was added.
    config.data.path = config_.train.data.path;
    config.device = device_;
    config.checkpoint_every = config_.train.checkpoint_every;
    config.keep_checkpoints = config_.train.keep_checkpoints;
    return config;
  }

  // Where to train. A worker that has lost the trial may still hold its folder:
  // then another one, with the checkpoints that are there.
  std::filesystem::path directory_of(const Trial& trial) const {
    const std::filesystem::path usual = folder_.trial(trial.id);
    try {
      base::make_directory(usual);
      const base::FolderLock free(usual);
      return usual;
    } catch (const base::InvalidInput&) {
    }
    const std::filesystem::path other =
        folder_.trial(fmt::format("{}.{}", trial.id, trial.fence));
    std::error_code ignored;  // what is not whole is not used
    std::filesystem::create_directories(other, ignored);
    std::filesystem::copy(
        usual / "checkpoints",
        other / "checkpoints",
        std::filesystem::copy_options::recursive |
            std::filesystem::copy_options::overwrite_existing,
        ignored);
    return other;
  }

  void run_trial(Trial trial) {
    const Lease lease(store_, trial, lease_);
    train::TrainOptions options;
    options.resume = true;
    options.progress = false;
    options.on_point = [&](const store::CurvePoint& point) {
      store_.append_curve(trial, std::span(&point, 1));
    };
    options.on_step = [&](std::int64_t step, double loss) {
      report_step(step, loss);
    };
    options.on_warning = [&](const std::string& message) {
      base::note(
          "trial {} ({}): warning: {}\n", trial.id, trial.structure, message);
    };
    options.should_stop = [&] { return stop_requested || lease.lost(); };
    options.world = team_.world();
    const int rungs = static_cast<int>(rung_count(config_.scheduler));
    try {
      options.directory = directory_of(trial);
      const train::TrainConfig config = train_config(trial);
      link_for_tensorboard(folder_, trial, config);
      const std::int64_t target = rung_steps(
          config.steps,
          config.eval_every,
          trial.rung,
          rungs,
          static_cast<int>(config_.scheduler.eta));
      if (target < config.steps) {
        options.stop_at_step = target;
      }
      events_.send(
          {{"event", "start"}, {"trial", trial.id}, {"target", target}});
      team_.train(
          base::to_json(config), options.directory, options.stop_at_step);
      const train::TrainResult result = train::train(config, options);
      record(trial, result, rungs);
    } catch (const base::IoError&) {
      // A full disk is not this trial's fault, and would fail all others too.
      throw;
    } catch (const distributed::PeerFailed&) {
      throw;  // nor is the end of another process of the team
    } catch (const std::exception& error) {
      base::note("trial {}: {}\n", trial.id, error.what());
      trial.status = Status::kFailed;
      trial.reason = base::message_of(error);
      store_.update(trial);
      events_.send({{"event", "end"}, {"trial", trial.id}});
      if (torch::cuda::is_available() || team_.world() != nullptr) {
        // An error on a GPU can poison the process, and the others of a team
        // wait for this one: begin afresh.
        ::_exit(0);
      }
      return;
    }
    events_.send({{"event", "end"}, {"trial", trial.id}});
  }

  void record(Trial& trial, const train::TrainResult& result, int rungs) {
    trial.flops = result.flops;
    trial.seconds = result.seconds;
    trial.final_loss = result.final_loss;
    if (!result.routers.is_null()) {
      trial.routers = result.routers;
    }
    trial.reason.clear();
    switch (result.outcome) {
      case train::Outcome::kInterrupted:
        trial.status = Status::kQueued;
        break;
      case train::Outcome::kDiverged:
        trial.status = Status::kDiverged;
        trial.reason = result.reason;
        // Its last evaluation is of a time before it diverged.
        trial.final_loss = NAN;
        break;
      case train::Outcome::kFinished:
      case train::Outcome::kPaused:
        ++trial.rung;
        trial.status = trial.rung < rungs ? Status::kPruned : Status::kDone;
        if (trial.status == Status::kPruned) {
          trial.reason = fmt::format(
              "waits at rung {} of {} for the others", trial.rung, rungs);
        }
        break;
    }
    store_.update(trial);
  }

  void report_step(std::int64_t step, double loss) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_report_ < std::chrono::milliseconds(200)) {
      return;
    }
    last_report_ = now;
    base::Json event = {{"event", "step"}, {"step", step}};
    if (std::isfinite(loss)) {
      event["loss"] = loss;
    }
    events_.send(event);
  }

  EventStream& events_;
  std::string device_;
  SearchConfig config_;
  Folder folder_;
  Team team_;
  store::Store store_;
  std::string name_;
  double lease_;  // seconds
  std::chrono::steady_clock::time_point last_report_{};
};

}  // namespace

int run_worker(
    const std::filesystem::path& directory,
    int threads,
    const std::string& device) {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  // No SA_RESTART: the signal must end the wait for a command.
  ::sigaction(SIGTERM, &action, nullptr);
  // The search decides what a signal to the terminal's processes means.
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  torch::set_num_threads(threads);
  EventStream events;
  try {
    Worker(directory, threads, device, events).run();
    return 0;
  } catch (const distributed::PeerFailed& error) {
    // A new worker goes on from the checkpoint.
    base::note("worker {}: {}\n", ::getpid(), error.what());
    return 1;
  } catch (const std::exception& error) {
    events.send({{"event", "fatal"}, {"message", base::message_of(error)}});
    base::note("worker {}: {}\n", ::getpid(), error.what());
    return 1;
  }
}

}  // namespace einforge::search
