#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/kernels/cuda/fused_ffn/plan.h"
#include "einforge/kernels/cuda/two_pass/layer.h"
#include "einforge/kernels/jit/compiler.h"
#include "einforge/kernels/jit/kernel_cache.h"
#include "einforge/ops/btt_sizes.h"
#include "einforge/ops/cuda/choice_cache.h"
#include "einforge/search/config.h"
#include "einforge/search/space.h"
#include "einforge/train/summary.h"

namespace einforge::cli {
namespace {

namespace jit = kernels::jit;
namespace fused_ffn = kernels::cuda::fused_ffn;
namespace two_pass = kernels::cuda::two_pass;
using kernels::cuda::BttSizes;

// The one that they are for.
constexpr const char* kArchitecture = "sm_90a";

struct Options {
  std::string config;
  std::vector<std::string> settings;
  int multiprocessors = two_pass::Device{}.multiprocessors;
  int processes = 1;
  JsonOption json;
};

// The runs of a configuration of either kind.
std::vector<train::TrainConfig> runs_of(const Options& options) {
  base::check(
      options.config != "-",
      "kernels build: expected a config in a file; got standard input");
  const base::Json given = base::read_config_file(options.config);
  const bool is_search = std::ranges::any_of(
      std::vector{"train", "structures", "space", "widths", "budget"},
      [&](const char* key) { return given.contains(key); });
  if (!is_search) {
    return {base::read_config<train::TrainConfig>(
        options.config, options.settings)};
  }
  const auto config =
      base::read_config<search::SearchConfig>(options.config, options.settings);
  config.validate();
  std::vector<train::TrainConfig> runs;
  for (const search::Proposal& proposal : search::propose(config)) {
    if (proposal.trial.status != store::Status::kFailed) {
      runs.push_back(proposal.config);
    }
  }
  return runs;
}

// Of a feed-forward network as a whole.
void add_ffn_sources(
    const models::ModelPlan& plan,
    const two_pass::Device& device,
    std::set<std::string>& sources) {
  const auto sizes = [&](const char* kind) -> std::optional<BttSizes> {
    const auto found =
        std::ranges::find(plan.linears, kind, &models::LinearPlan::kind);
    if (found == plan.linears.end() || found->structure.dense ||
        found->structure.spec.mixture) {
      return std::nullopt;
    }
    const ops::Contraction contraction(found->structure.sizes);
    return ops::btt::is_btt(contraction)
               ? std::optional(ops::btt::sizes_of(contraction))
               : std::nullopt;
  };
  const auto in = sizes("ffn_in");
  const auto out = sizes("ffn_out");
  if (in && out) {
    if (const auto shape = fused_ffn::forward_shape({*in, *out}, device)) {
      sources.insert(fused_ffn::source_of(*shape));
    }
    if (const auto shape = fused_ffn::middle_shape({*in, *out}, device)) {
      sources.insert(fused_ffn::source_of(*shape));
    }
  }
}

// Sources of what a run's layers may take, its micro-batches being cut among
// the processes.
void add_sources(
    const train::TrainConfig& config,
    const Options& options,
    std::set<std::string>& sources) {
  const train::TaskShape shape = train::task_shape(config);
  const std::int64_t tokens =
      std::max<std::int64_t>(1, shape.tokens / options.processes);
  const two_pass::Device device{.multiprocessors = options.multiprocessors};
  const models::ModelPlan plan = train::plan_model(config, shape);
  add_ffn_sources(plan, device, sources);
  for (const models::LinearPlan& linear : plan.linears) {
    const structure::Structure& layer = linear.structure;
    const ops::Contraction contraction(layer.sizes);
    if (layer.dense || !ops::btt::is_btt(contraction)) {
      continue;
    }
    const auto sizes = ops::btt::sizes_of(contraction);
    const auto& mixture = layer.spec.mixture;
    if (two_pass::suits(sizes)) {
      sources.merge([&] {
        const auto all = two_pass::sources_of(
            sizes,
            tokens * (mixture ? mixture->active : 1),
            mixture ? static_cast<int>(mixture->experts) : 1,
            device);
        return std::set(all.begin(), all.end());
      }());
    }
  }
}

int run(const Options& options) {
  const jit::Compiler* compiler = jit::Compiler::find();
  base::check(
      compiler != nullptr,
      "kernels build: expected NVRTC (libnvrtc.so.13), which comes with "
      "torch's "
      "CUDA build; got none: EINFORGE_NVRTC names the file");
  std::set<std::string> wanted;
  for (const train::TrainConfig& config : runs_of(options)) {
    add_sources(config, options, wanted);
  }
  const std::filesystem::path directory = ops::cache_directory() / "kernels";
  const auto is_there = [&](const std::string& source) {
    std::error_code none;
    const std::string key =
        jit::kernel_key(source, kArchitecture, compiler->version());
    return std::filesystem::exists(directory / (key + ".cubin"), none);
  };
  std::vector<std::string> sources;
  std::ranges::copy_if(
      wanted, std::back_inserter(sources), std::not_fn(is_there));
  const auto start = std::chrono::steady_clock::now();
  jit::KernelCache cache(directory);
  if (!sources.empty()) {
    base::Progress progress("compile", std::ssize(sources));
    const std::size_t at_once =
        std::max(1U, std::thread::hardware_concurrency());
    for (std::size_t i = 0; i < sources.size(); i += at_once) {
      const auto first = sources.begin() + static_cast<std::ptrdiff_t>(i);
      const auto last = first + static_cast<std::ptrdiff_t>(
                                    std::min(at_once, sources.size() - i));
      cache.get({first, last}, kArchitecture);
      progress.update(last - sources.begin());
    }
  }
  // Not compiled, or not written; the cache has said why.
  const auto failed = static_cast<std::size_t>(
      std::ranges::count_if(sources, std::not_fn(is_there)));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  options.json.write(
      {{"architecture", kArchitecture},
       {"compiler", compiler->version()},
       {"directory", directory.string()},
       {"kernels", wanted.size()},
       {"compiled", sources.size() - failed},
       {"failed", failed},
       {"seconds", seconds}});
  if (!options.json.instead()) {
    if (wanted.empty()) {
      base::print(
          "no layer of {} takes kernels that are compiled at their first use: "
          "those are of block tensor trains and mixtures of them\n",
          options.config);
    } else {
      base::print(
          "{} kernels for {} in {}: {} compiled in {}, {} were there\n",
          wanted.size(),
          kArchitecture,
          directory.string(),
          sources.size() - failed,
          base::human_duration(seconds),
          wanted.size() - sources.size());
    }
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace

void add_kernels(CLI::App& app) {
  CLI::App* kernels = app.add_subcommand(
      "kernels", "Work with kernels that are compiled when they are needed");
  kernels->require_subcommand(1);
  CLI::App* build = kernels->add_subcommand(
      "build",
      "Compile a configuration's kernels before it runs; needs no GPU");
  auto options = std::make_shared<Options>();
  build
      ->add_option(
          "config", options->config, "of `einforge train` or `einforge search`")
      ->required()
      ->type_name("CONFIG");
  build
      ->add_option(
          "--set", options->settings, "override a key of the file; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  add_number(
      *build,
      "--processes",
      options->processes,
      "that share each batch, as of `einforge train`",
      base::Range{1, 4096});
  add_number(
      *build,
      "--multiprocessors",
      options->multiprocessors,
      "of the GPU that it will run on, which plans depend on; 132: H100 SXM, "
      "H200",
      base::Range{1, 1024});
  options->json.add(*build);
  build->footer(
      "Layers of block tensor trains and mixtures of them have kernels of "
      "their\nexact sizes on Hopper, which the first step otherwise compiles, "
      "in\n$EINFORGE_CACHE_DIR/kernels. What is there already is kept.\n"
      "Example:\n"
      "  einforge kernels build examples/configs/gpt2_124m_btt_moe.toml \\\n"
      "      --processes 8");
  build->callback([options] {
    if (const int code = run(*options); code != 0) {
      throw CLI::RuntimeError(code);
    }
  });
}

}  // namespace einforge::cli
