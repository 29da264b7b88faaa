#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "cli/command.h"
#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/data/tokenizer.h"
#include "einforge/models/sample.h"
#include "einforge/nn/einsum_linear.h"
#include "einforge/train/load_model.h"

namespace einforge::cli {
namespace {

struct Options {
  std::string checkpoint;
  std::string prompt = "\n";
  models::SampleOptions sample;
  std::string device = "auto";
  bool json = false;
};

constexpr const char* kExamples = R"(
Examples:
  einforge generate runs/train_gpt --prompt "It was " --tokens 300
  einforge generate runs/train_gpt/checkpoints/step_00000500 --temperature 0
  einforge generate runs/train_gpt --top-k 10 --seed 7 --json)";

void run(const Options& options) {
  options.sample.validate();
  const train::LoadedModel loaded =
      train::load_model(options.checkpoint, options.device);
  base::check(
      !loaded.tokens.empty(),
      "'{}': expected a gpt; got a model of kind '{}', which writes no text",
      options.checkpoint,
      loaded.config.model.kind);
  nn::set_inference(*loaded.model, true);
  const data::Tokenizer tokenizer(loaded.tokens);
  const auto prompt = tokenizer.encode(options.prompt);
  if (!options.json) {
    fmt::print("{}", options.prompt);
  }
  const auto tokens = models::sample(
      *loaded.model,
      loaded.config.model.context,
      prompt,
      options.sample,
      [&](std::int64_t token) {
        if (!options.json) {
          fmt::print("{}", tokenizer.decode(std::array{token}));
          std::fflush(stdout);
        }
      });
  if (!options.json) {
    fmt::print("\n");
    return;
  }
  const base::Json json = {
      {"prompt", options.prompt},
      {"text", tokenizer.decode(tokens)},
      {"tokens", tokens},
      {"step", loaded.step}};
  // replace: a model of bytes may write what is no UTF-8.
  fmt::print(
      "{}\n", json.dump(2, ' ', false, base::Json::error_handler_t::replace));
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("generate", "Continue a text with a trained model");
  command
      ->add_option(
          "checkpoint", options->checkpoint, "folder of a run or a checkpoint")
      ->required();
  command->add_option("--prompt", options->prompt, "text to go on from");
  command->add_option("--tokens", options->sample.tokens, "how many to write")
      ->capture_default_str();
  command
      ->add_option(
          "--temperature", options->sample.temperature, "0: the likeliest")
      ->capture_default_str();
  command
      ->add_option(
          "--top-k", options->sample.top_k, "draw from the k likeliest; 0: all")
      ->capture_default_str();
  command->add_option("--seed", options->sample.seed, "of the draws")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--device", options->device, "auto, cpu, cuda, cuda:N")
      ->capture_default_str();
  command->add_flag("--json", options->json, "print JSON");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
