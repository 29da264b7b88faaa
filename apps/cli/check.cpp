#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/progress.h"
#include "einforge/report/coordinate_page.h"
#include "einforge/search/config.h"
#include "einforge/train/coordinate_check.h"

namespace einforge::cli {
namespace {

using base::Json;

struct Flags {
  std::string config;
  std::vector<std::string> settings;
  std::vector<std::string> structures;
  std::vector<std::int64_t> widths = {32, 64, 128, 256};
  std::int64_t steps = 20;
  std::int64_t seeds = 3;
  std::string data;
  std::string device;
  bool same_rates = false;
  int threads = 0;
  std::string html;
  JsonOption json;
};

constexpr const char* kExamples = R"(
A learning rate tuned at one width serves another if neither what layers compute
nor how far a step moves it depends on width. This trains a small GPT of each
structure and width for some steps and fits by width^exponent, over the last
quarter of the steps, the RMS of each layer's output (of the head: the logits),
of how far that quarter moved it, and of what each core has learnt. The verdict
is by the geometric means over layers: flat if the 90% intervals of all
exponents, but those of changes, lie within 0.25 of zero (a factor of two while
the width grows 16 times); grows or shrinks if a 95% interval lies beyond, or
that of one kind of layer beyond 0.5.

Without CONFIG it is a GPT of 2 layers, context 64, 512 tokens per step, rate
3e-3 at base width 768, on synthetic tokens. CONFIG is one of `einforge train`,
of which model, optimizer, batch size and data count; the rate is constant.
In a structure rank=N is the exponent that makes rank N at each width.

Examples:
  einforge check
  einforge check --structures dense,monarch,btt:rank=4 --html check.html
  einforge check --structures dense --same-rates
  einforge check my.toml --widths 256,512,1024,2048,4096 --device cuda --json

--json gives {settings, widths, flat_within, alone_within, structures}; of a
structure its verdict, because (what decided it), pooled (layers, measure,
exponent, ci95, ci90, trend, rms by width) and coordinates (layer, measure,
exponent, ci95, trend, and rms by width, seed and measured step). The exit code
is 0 whatever the verdict.)";

train::TrainConfig config_of(const Flags& flags) {
  train::TrainConfig config;
  if (flags.config.empty()) {
    config.model.layers = 2;
    config.model.context = 64;
    config.data.batch_size = 8;
    config.dtype = "float32";
    base::update_from_json(config, base::Json::object(), flags.settings);
  } else {
    config = read_config<train::TrainConfig, search::SearchConfig>(
        flags.config, flags.settings, "train", "search");
  }
  if (!flags.data.empty()) {
    config.data.path = flags.data;
  }
  if (!flags.device.empty()) {
    config.device = flags.device;
  }
  return config;
}

void run(const Flags& flags) {
  if (flags.threads > 0) {
    at::set_num_threads(flags.threads);
  }
  check_outputs({{"--html", flags.html}, flags.json.output()}, {flags.config});
  train::CheckOptions options{
      .config = config_of(flags),
      .structures = flags.structures.empty()
                        ? train::default_check_structures()
                        : split_structures(flags.structures),
      .widths = flags.widths,
      .steps = flags.steps,
      .seeds = flags.seeds,
      .lr_multipliers = !flags.same_rates};
  const std::int64_t runs =
      static_cast<std::int64_t>(
          options.structures.size() * options.widths.size()) *
      options.seeds;
  std::optional<base::Progress> progress;
  options.on_run = [&](std::int64_t done, const std::string& what) {
    if (!progress) {
      progress.emplace("check", runs);
    }
    progress->update(done, what);
  };
  const train::CheckedModel checked = train::check_coordinates(options);
  progress.reset();
  Json report = train::to_json(checked);
  report["settings"] = {
      {"learning_rate", options.config.optimizer.learning_rate},
      {"base_width", options.config.optimizer.base_width},
      {"layers", options.config.model.layers},
      {"context", options.config.model.context},
      {"tokens_per_step",
       options.config.data.batch_size * options.config.model.context},
      {"steps", options.steps},
      {"seeds", options.seeds},
      {"rates", options.lr_multipliers ? "by structure and width" : "all same"},
      {"tokens",
       options.config.data.path.empty() ? "synthetic"
                                        : options.config.data.path}};
  if (!flags.html.empty()) {
    write_output(flags.html, report::coordinate_page(report));
  }
  if (!flags.json.instead()) {
    base::print_text(train::coordinate_table(checked));
  }
  flags.json.write(report);
}

}  // namespace

void add_check(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "check", "Check whether a learning rate transfers between widths");
  command->add_option(
      "config", flags->config, "TOML or JSON file of `einforge train`");
  command
      ->add_option(
          "--set", flags->settings, "override a key of the file; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option(
          "--structures",
          flags->structures,
          "as `describe --list` names them, with commas between (dense, "
          "low_rank, kronecker, a theta, btt:rank=4, btt_moe:E=16,k=2)")
      ->type_name("LIST");
  add_number(
      *command,
      "--widths",
      flags->widths,
      "at least two, with commas between (32,64,128,256)",
      {1, 1e6});
  add_number(*command, "--steps", flags->steps, "of training", {1, 1e6});
  add_number(
      *command, "--seeds", flags->seeds, "runs of each width", {1, 1000});
  command
      ->add_option(
          "--data",
          flags->data,
          "text that `einforge data prepare` made, in place of synthetic "
          "tokens")
      ->type_name("FOLDER");
  command->add_option("--device", flags->device, "auto, cpu, cuda or cuda:N")
      ->type_name("DEVICE");
  command->add_flag(
      "--same-rates",
      flags->same_rates,
      "one learning rate for all parameters, as without muP: what a wrong "
      "parametrisation looks like");
  add_number(
      *command, "--threads", flags->threads, "CPU threads; 0: all", {0, 4096});
  command->add_option("--html", flags->html, "also write plots to this file")
      ->type_name("FILE");
  flags->json.add(*command, "everything");
  command->footer(kExamples);
  command->callback([flags] { run(*flags); });
}

}  // namespace einforge::cli
