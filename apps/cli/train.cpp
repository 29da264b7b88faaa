#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cli/command.h"
#include "cli/launch.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/folders.h"
#include "einforge/base/json.h"
#include "einforge/base/process.h"
#include "einforge/base/text.h"
#include "einforge/distributed/place.h"
#include "einforge/distributed/world.h"
#include "einforge/search/config.h"
#include "einforge/train/device.h"
#include "einforge/train/task.h"
#include "einforge/train/trainer.h"

namespace einforge::cli {
namespace {

using base::Json;

struct Options {
  std::string config;
  std::vector<std::string> settings;
  std::string out;
  std::string device;
  std::string flops;
  bool resume = false;
  JsonOption json;
  std::int64_t profile = 0;
  int processes = 1;
  bool shard = false;
  int patience = 60;  // seconds
};

constexpr const char* kExamples = R"(
Examples:
  einforge train examples/configs/train_gpt.toml
  einforge train my.toml --set model.width=512 --set model.structure.all=monarch
  einforge train my.toml --out runs/long --set steps=100000
  einforge train my.toml --out runs/long --set steps=100000 --resume
  einforge train my.toml --out runs/look --set steps=40 --profile
  einforge train my.toml --out runs/two --processes 2
  torchrun --no-python --nproc-per-node 2 \
    einforge train my.toml --out runs/both

Ctrl-C writes a checkpoint; --resume goes on from the newest one.
docs/training.md has the details, docs/configuration.md all keys.)";

std::string sizes_text(const structure::Structure& layer) {
  std::string experts;
  if (layer.spec.mixture) {
    experts = fmt::format(
        "{} of {} experts ",
        layer.spec.mixture->active,
        layer.spec.mixture->experts);
  }
  if (layer.dense) {
    return experts;
  }
  const structure::Sizes& n = layer.sizes;
  return fmt::format(
      "{}({},{},{} -> {},{},{}; {})",
      experts,
      n.alpha,
      n.beta,
      n.gamma,
      n.delta,
      n.epsilon,
      n.phi,
      n.rho);
}

void print_summary(
    const train::TrainConfig& config, const models::ModelPlan& plan) {
  base::print(
      "{:<15}{:<24}{:>13}  {:>6}{:>12}{:>14}  {}\n",
      "layer",
      "structure",
      "in -> out",
      "count",
      "parameters",
      "MACs",
      "(alpha,beta,gamma -> delta,epsilon,phi; rho)");
  for (const models::LinearPlan& linear : plan.linears) {
    base::print(
        "{:<15}{:<24}{:>13}  {:>6}{:>12}{:>14}  {}\n",
        linear.kind,
        linear.structure.spec.text,
        fmt::format("{} -> {}", linear.structure.d_in, linear.structure.d_out),
        linear.count,
        linear.parameters(),
        linear.macs(),
        sizes_text(linear.structure));
  }
  if (plan.attention_macs > 0) {
    base::print(
        "{:<15}{:<24}{:>13}  {:>6}{:>12}{:>14}\n",
        "attention",
        config.flops == "paper" ? "causal, full square" : "causal",
        "",
        config.model.layers,
        0,
        plan.attention_macs);
  }
  const auto summary = train::summarise(config);
  const char* unit = config.model.kind == "gpt" ? "token" : "sample";
  base::print(
      "{} parameters, {} FLOPs per {} (forward + backward{}), {} {}s per step, "
      "{} steps, {} FLOPs in all\n",
      base::human_count(static_cast<double>(summary.parameters)),
      base::human_count(summary.flops_per_token),
      unit,
      // The paper's plots have the MACs of a forward pass.
      config.flops == "paper"
          ? fmt::format(
                ", attention's full square; in the paper's unit, forward MACs: "
                "{}",
                base::human_count(summary.flops_per_token / 6))
          : "",
      summary.tokens_per_step,
      unit,
      config.steps,
      base::human_count(
          summary.flops_per_token *
          static_cast<double>(summary.tokens_per_step * config.steps)));
}

const char* outcome_name(train::Outcome outcome) {
  switch (outcome) {
    case train::Outcome::kFinished:
      return "finished";
    case train::Outcome::kPaused:
      return "paused";
    case train::Outcome::kInterrupted:
      return "interrupted";
    case train::Outcome::kDiverged:
      return "diverged";
  }
  return "unknown";
}

// The command that goes on with an interrupted run.
std::string resume_command(const Options& options) {
  // Standard input is gone; the run has kept what it said.
  std::vector<std::string> words = {
      "einforge",
      "train",
      options.config == "-" ? options.out + "/config.json" : options.config};
  for (const std::string& setting : options.settings) {
    words.insert(words.end(), {"--set", setting});
  }
  if (!options.device.empty()) {
    words.insert(words.end(), {"--device", options.device});
  }
  if (!options.flops.empty()) {
    words.insert(words.end(), {"--flops", options.flops});
  }
  if (options.processes > 1) {
    words.insert(
        words.end(), {"--processes", fmt::format("{}", options.processes)});
  }
  if (options.shard) {
    words.emplace_back("--shard-optimizer");
  }
  words.insert(words.end(), {"--out", options.out, "--resume"});
  for (std::string& word : words) {
    word = base::shell_word(word);
  }
  return fmt::format("{}", fmt::join(words, " "));
}

// All that can refuse the run before its folder is made.
void check_run(const Options& options, const train::TrainConfig& config) {
  train::resolve_dtype(config.dtype, train::resolve_device(config.device));
  base::check_folder(options.out, base::FolderKind::kRun);
  std::vector<std::filesystem::path> kept = files_in(
      options.out,
      {"config.json", "log.jsonl", "profile.json", "profile_summary.json"});
  kept.emplace_back(options.config);
  check_outputs({options.json.output()}, kept, options.out);
}

// train::train() that leaves no folder behind where it made one and failed
// before it logged anything, as without memory or with damaged data. Of several
// processes one does not know what the others have made.
train::TrainResult train_or_clean_up(
    const train::TrainConfig& config, const train::TrainOptions& options) {
  const base::NewFolders made(options.directory);
  try {
    return train::train(config, options);
  } catch (...) {
    std::error_code none;
    const auto logged =
        std::filesystem::file_size(options.directory / "log.jsonl", none);
    const bool alone = options.world == nullptr || options.world->size() == 1;
    if (alone && made.any() && (none || logged == 0)) {
      try {
        // Another run may have made the folder at the same time, and hold it.
        const base::FolderLock lock(options.directory);
        std::filesystem::remove_all(options.directory, none);
        made.remove_empty();
      } catch (const std::exception&) {
        // The first error is the one to tell.
      }
    }
    throw;
  }
}

// The processes of the run, once they have met. That they have not is this
// process's own to say: whoever started it sees none that ended.
distributed::World meet(
    const distributed::Place& place,
    const std::string& device,
    std::chrono::seconds patience) {
  try {
    return distributed::World(
        place,
        place.size > 1 ? train::resolve_device(device, place.local_rank)
                       : torch::kCPU,
        patience);
  } catch (const distributed::PeerFailed& error) {
    throw base::IoError(error.what());
  }
}

int run(Options options) {
  base::check(
      options.config != "-" || options.processes == 1,
      "--processes: expected a config in a file, which all of them read; got "
      "standard input");
  auto config = read_config<train::TrainConfig, search::SearchConfig>(
      options.config, options.settings, "train", "search");
  if (!options.device.empty()) {
    config.device = options.device;
  }
  if (!options.flops.empty()) {
    config.flops = options.flops;
  }
  config.validate();
  if (options.out.empty()) {
    const std::filesystem::path name =
        options.config == "-" ? "stdin" : options.config;
    options.out = (std::filesystem::path("runs") / name.stem()).string();
  }
  check_run(options, config);
  const models::ModelPlan plan =
      train::plan_model(config, train::task_shape(config));
  const distributed::Place place =
      distributed::place_from_environment().value_or(distributed::Place{});
  if (options.processes > 1 && !is_launched()) {
    base::check(
        place.size == 1,
        "--processes: expected it where no other program starts the processes; "
        "torchrun or srun has started {}",
        place.size);
    train::check_parts(config, options.processes);
    return launch(options.processes);
  }
  const bool is_first = place.rank == 0;
  if (!options.json.instead() && is_first) {
    print_summary(config, plan);
    base::print("writing to {}\n", options.out);
  }

  // A signal ends the wait for the others: there is nothing to keep yet.
  distributed::World world =
      meet(place, config.device, std::chrono::seconds(options.patience));
  const base::StopSignals signals;
  const train::TrainResult result = train_or_clean_up(
      config,
      {.directory = options.out,
       .resume = options.resume,
       .should_stop = base::StopSignals::requested,
       .progress = !options.json.instead(),
       .profile_steps = options.profile,
       .on_profile =
           [&](const train::Profile& profile) {
             if (!options.json.instead()) {
               base::print(
                   "\n{}the timeline, for chrome://tracing or "
                   "ui.perfetto.dev: {}/profile.json\n",
                   train::profile_table(profile),
                   options.out);
             }
           },
       .world = &world,
       .shard_optimizer = options.shard});
  world.leave();
  if (!is_first) {  // rank 0 says how it ended
    return result.outcome == train::Outcome::kInterrupted ? 130
           : result.outcome == train::Outcome::kDiverged  ? 1
                                                          : 0;
  }
  if (options.json.given()) {
    const auto summary = train::summarise(config);
    options.json.write(
        {{"outcome", outcome_name(result.outcome)},
         {"reason", result.reason},
         {"steps", result.steps},
         {"final_loss", result.final_loss},
         {"flops", result.flops},
         {"seconds", result.seconds},
         {"parameters", summary.parameters},
         {"flops_per_token", summary.flops_per_token},
         {"directory", options.out}});
  }
  switch (result.outcome) {
    case train::Outcome::kDiverged:
      throw std::runtime_error(fmt::format(
          "the run diverged: {} (try a smaller optimizer.learning_rate)",
          result.reason));
    case train::Outcome::kInterrupted:
      base::note(
          "stopped at step {}{}; go on with:\n  {}\n",
          result.steps,
          result.steps > 0 ? ", checkpoint written" : "",
          resume_command(options));
      return 130;
    default:
      if (!options.json.instead()) {
        base::print(
            "{} steps, validation loss {:.4f}, {} FLOPs in {}\n",
            result.steps,
            result.final_loss,
            base::human_count(result.flops),
            base::human_duration(result.seconds));
      }
      return 0;
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train one model");
  command->add_option("config", options->config, "TOML or JSON file")
      ->required();
  command
      ->add_option(
          "--set", options->settings, "override a key of the file; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option(
          "--out", options->out, "folder of the run (runs/NAME of the config)")
      ->type_name("FOLDER");
  command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N")
      ->type_name("DEVICE");
  command
      ->add_option(
          "--flops",
          options->flops,
          "paper: count attention's full square, as the paper does")
      ->type_name("causal|paper")
      ->check(one_of("--flops", {"causal", "paper"}));
  command->add_flag(
      "--resume",
      options->resume,
      "go on from the newest checkpoint, or begin where there is none");
  command
      ->add_flag(
          "--profile{5}",
          options->profile,
          "say where the time of a step goes, from so many steps (5) after "
          "the first ten; writes profile.json, profile_summary.json")
      ->type_name("[=STEPS]")
      ->check(whole_number("--profile", {1, 1000}));
  command
      ->add_option(
          "--processes",
          options->processes,
          "start so many on this machine, each on its part of every batch and "
          "on a GPU of its own; torchrun and srun start them too")
      ->type_name("N")
      ->check(whole_number("--processes", {1, 1024}));
  command->add_flag(
      "--shard-optimizer",
      options->shard,
      "each process keeps a part of the optimiser's state (ZeRO 1)");
  command
      ->add_option(
          "--patience",
          options->patience,
          "end where another process says nothing for so many seconds (60)")
      ->type_name("SECONDS")
      ->check(whole_number("--patience", {2, 86400}));
  options->json.add(*command);
  command->footer(kExamples);
  command->callback([options] {
    if (const int code = run(*options); code != 0) {
      throw CLI::RuntimeError(code);
    }
  });
}

}  // namespace einforge::cli
