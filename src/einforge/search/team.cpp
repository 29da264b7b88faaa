#include "einforge/search/team.h"

#include <fmt/format.h>
#include <signal.h>
#include <torch/utils.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <iostream>
#include <stop_token>
#include <string>
#include <thread>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/listener.h"
#include "einforge/distributed/place.h"
#include "einforge/train/device.h"
#include "einforge/train/trainer.h"

namespace einforge::search {
namespace {

constexpr std::chrono::seconds kPatience(60);

std::unique_ptr<distributed::World> join(
    const distributed::Place& place, const std::string& device) {
  return std::make_unique<distributed::World>(
      place, train::resolve_device(device, place.local_rank), kPatience);
}

}  // namespace

Team::Team(const Options& options) {
  if (options.size == 1) {
    return;
  }
  base::Listener listener;
  const distributed::Place first = {
      .size = options.size,
      .address = "127.0.0.1",
      .port = listener.port(),
      .socket = listener.get()};
  for (int rank = 1; rank < options.size; ++rank) {
    const std::string number = fmt::format("{}", rank);
    others_.emplace_back(Child::Options{
        .command =
            {"/proc/self/exe",
             "search-worker",
             options.directory.string(),
             fmt::format("{}", options.threads),
             options.device,
             "--member"},
        .environment =
            {{"RANK", number},
             {"LOCAL_RANK", number},
             {"WORLD_SIZE", fmt::format("{}", options.size)},
             {"MASTER_ADDR", first.address},
             {"MASTER_PORT", fmt::format("{}", first.port)}},
        .log = options.log});
  }
  // One that ends before all have met would be waited for to the end.
  const std::jthread watch([this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      for (Child& other : others_) {
        if (std::string how; other.exited(how)) {
          base::note(
              "worker {}: a process that was to train with it ended at its "
              "start: {}\n",
              ::getpid(),
              how);
          ::_exit(1);
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  listener.release();
  world_ = join(first, options.device);
}

void Team::train(
    const base::Json& config,
    const std::filesystem::path& directory,
    std::int64_t stop_at_step) {
  const std::string line = base::dump_json(
      {{"config", config},
       {"directory", directory.string()},
       {"stop_at_step", stop_at_step}});
  for (Child& other : others_) {
    other.send(line);
  }
}

void Team::leave() {
  if (world_ == nullptr) {
    return;
  }
  for (Child& other : others_) {
    other.send("");
  }
  world_->leave();
}

int run_member(int threads, const std::string& device) {
  // Rank 0 decides what they mean, and takes this process with it.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    ::signal(signal, SIG_IGN);
  }
  ::dup2(STDERR_FILENO, STDOUT_FILENO);  // nobody reads the pipe
  torch::set_num_threads(threads);
  try {
    const distributed::Place place =
        distributed::place_from_environment().value();
    const auto world = join(place, device);
    for (std::string line; std::getline(std::cin, line) && !line.empty();) {
      const base::Json job = base::parse_json(line, "what to train");
      train::TrainConfig config;
      base::update_from_json(config, job.at("config"));
      train::train(
          config,
          {.directory = job.at("directory").get<std::string>(),
           .resume = true,
           .stop_at_step = job.at("stop_at_step").get<std::int64_t>(),
           .progress = false,
           .world = world.get()});
    }
    world->leave();
    return 0;
  } catch (const std::exception& error) {
    base::note("process {}: {}\n", ::getpid(), error.what());
    // What it was part of is no more.
    ::_exit(1);
  }
}

}  // namespace einforge::search
