#include <fmt/format.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"
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
  bool resume = false;
  bool json = false;
  std::int64_t profile = 0;
};

constexpr const char* kExamples = R"(
Examples:
  einforge train examples/configs/train_gpt.toml
  einforge train my.toml --set model.width=512 --set model.structure.all=monarch
  einforge train my.toml --out runs/long --set steps=100000
  einforge train my.toml --out runs/long --set steps=100000 --resume
  einforge train my.toml --out runs/look --set steps=40 --profile

Ctrl-C writes a checkpoint; --resume goes on from the newest one.
docs/training.md has the details, docs/configuration.md all keys.)";

volatile std::sig_atomic_t interrupted = 0;

void interrupt(int signal) {
  interrupted = 1;
  // A second one ends the program the usual way.
  std::signal(signal, SIG_DFL);
}

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
  fmt::print(
      "{:<15}{:<24}{:>13}  {:>6}{:>12}{:>14}  {}\n",
      "layer",
      "structure",
      "in -> out",
      "count",
      "parameters",
      "MACs/token",
      "(alpha,beta,gamma -> delta,epsilon,phi; rho)");
  for (const models::LinearPlan& linear : plan.linears) {
    fmt::print(
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
    fmt::print(
        "{:<15}{:<24}{:>13}  {:>6}{:>12}{:>14}\n",
        "attention",
        "causal",
        "",
        config.model.layers,
        0,
        plan.attention_macs);
  }
  const auto summary = train::summarise(config);
  fmt::print(
      "{} parameters, {} FLOPs a token (forward + backward), {} tokens a "
      "step, {} steps, {} FLOPs in all\n",
      base::human_count(static_cast<double>(summary.parameters)),
      base::human_count(summary.flops_per_token),
      summary.tokens_per_step,
      config.steps,
      base::human_count(
          summary.flops_per_token *
          static_cast<double>(summary.tokens_per_step * config.steps)));
  std::fflush(stdout);
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
  std::string command = "einforge train " + options.config;
  for (const std::string& setting : options.settings) {
    command += " --set '" + setting + "'";
  }
  if (!options.device.empty()) {
    command += " --device " + options.device;
  }
  return command + " --out " + options.out + " --resume";
}

int run(Options options) {
  auto config =
      base::read_config<train::TrainConfig>(options.config, options.settings);
  if (!options.device.empty()) {
    config.device = options.device;
  }
  config.validate();
  if (options.out.empty()) {
    options.out = (std::filesystem::path("runs") /
                   std::filesystem::path(options.config).stem())
                      .string();
  }
  if (!options.json) {
    print_summary(config, train::plan_model(config, train::task_shape(config)));
    fmt::print("writing to {}\n", options.out);
    std::fflush(stdout);
  }

  std::signal(SIGINT, interrupt);
  std::signal(SIGTERM, interrupt);
  const train::TrainResult result = train::train(
      config,
      {.directory = options.out,
       .resume = options.resume,
       .should_stop = [] { return interrupted != 0; },
       .progress = !options.json,
       .profile_steps = options.profile,
       .on_profile =
           [&](const train::Profile& profile) {
             if (!options.json) {
               fmt::print(
                   "\n{}the timeline, for chrome://tracing or "
                   "ui.perfetto.dev: {}/profile.json\n",
                   train::profile_table(profile),
                   options.out);
               std::fflush(stdout);
             }
           }});

  if (options.json) {
    const auto summary = train::summarise(config);
    fmt::print(
        "{}\n",
        Json{
            {"outcome", outcome_name(result.outcome)},
            {"reason", result.reason},
            {"steps", result.steps},
            {"final_loss", result.final_loss},
            {"flops", result.flops},
            {"seconds", result.seconds},
            {"parameters", summary.parameters},
            {"flops_per_token", summary.flops_per_token},
            {"directory", options.out}}
            .dump(2));
  }
  switch (result.outcome) {
    case train::Outcome::kDiverged:
      throw std::runtime_error(fmt::format(
          "the run diverged: {} (try a smaller optimizer.learning_rate)",
          result.reason));
    case train::Outcome::kInterrupted:
      fmt::print(
          stderr,
          "stopped at step {}{}; go on with:\n  {}\n",
          result.steps,
          result.steps > 0 ? ", checkpoint written" : "",
          resume_command(options));
      return 130;
    default:
      if (!options.json) {
        fmt::print(
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
          "--set", options->settings, "key=value that overrides the file")
      ->allow_extra_args(false);
  command->add_option(
      "--out", options->out, "folder of the run (runs/NAME of the config)");
  command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N");
  command->add_flag(
      "--resume",
      options->resume,
      "go on from the newest checkpoint, or begin where there is none");
  command
      ->add_flag(
          "--profile{5}",
          options->profile,
          "[=STEPS] say where the time of a step goes, from so many steps (5) "
          "after the first ten; writes profile.json, profile_summary.json")
      ->check(CLI::Range(1, 1000));
  command->add_flag("--json", options->json, "print the result as JSON");
  command->footer(kExamples);
  command->callback([options] {
    if (const int code = run(*options); code != 0) {
      throw CLI::RuntimeError(code);
    }
  });
}

}  // namespace einforge::cli
