#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/bench/layers.h"
#include "einforge/bench/suites.h"
#include "einforge/train/device.h"
#include "einforge/train/machine_load.h"

namespace einforge::cli {
namespace {

using base::Json;

struct Options {
  std::string suite = "layers";
  std::vector<std::string> structures;
  std::vector<std::string> widths;
  std::vector<std::int64_t> tokens;
  std::vector<std::string> implementations;
  std::string device = "auto";
  std::string dtype = "auto";
  std::int64_t repeats = 15;
  int threads = 0;
  JsonOption json;
};

constexpr const char* kExamples = R"(
Suites:
  layers  on CUDA monarch and btt of rank 4 at the sizes in results/h200,
          32,768 tokens; on the CPU monarch of 1024 and 2048, 2,048 tokens
  paper   the 23 structures of the paper's sweep at 1024, 2048 and 4096
  decode  1 to 64 tokens, forward only
  moe     mixtures of experts, routed evenly, by Zipf's law and to one expert
  widths  monarch and btt_moe at widths that are no powers of two
  coverage  41 shapes of transformers and beside them by seven structures, and
          mixtures of 4 to 128 experts; dense once for each shape
--structures, --widths and --tokens replace a suite's own.

Examples:
  einforge bench
  einforge bench --structures monarch,btt:0.25 --widths 1024,1024x4096
  einforge bench --suite layers --device cuda --json layers.json
  einforge bench --suite paper --widths 1024 --implementations einforge,bmm
  einforge bench --json

--json gives {command, device, rows}: a row for each layer, pass (forward,
forward_backward) and implementation (dense; einforge, what a user gets; each
kernel by name; einsum), with median_ms, min_ms, spread (10th to 90th percentile
over the median), tflops, gb_per_s, limit_ms (what the matmul and copy speeds
measured in the same run allow), share_of_limit, ratio_to_dense (dense's time /
this time) and kernels (those of einforge that ran; "merged" is the dense
matrix), or with error where it failed; of a layer sizes and rank (rho), of
a mixture experts, active, routing and largest_share too. An ffn_moe of WIDTH has
as many hidden features, of D_INxD_HIDDEN those; dense is a dense FFN there. With
a FILE the table is printed too.)";

std::vector<bench::Width> parse_widths(const std::vector<std::string>& texts) {
  std::vector<bench::Width> widths;
  for (const std::string& text : texts) {
    const auto sides = base::split(text, 'x');
    base::check(
        sides.size() == 1 || sides.size() == 2,
        "--widths: expected WIDTH or D_INxD_OUT; got '{}'",
        text);
    bench::Width width;
    width.d_in = base::parse_integer("--widths", sides.front());
    width.d_out = base::parse_integer("--widths", sides.back());
    base::check(
        width.d_in > 0 && width.d_out > 0,
        "--widths: expected widths of at least 1; got '{}'",
        text);
    widths.push_back(width);
  }
  return widths;
}

std::string command_line(const Options& options) {
  std::string line = "einforge bench --suite " + options.suite;
  const auto add = [&](const char* name, const auto& values) {
    if (!values.empty()) {
      line += fmt::format(" {} {}", name, fmt::join(values, ","));
    }
  };
  add("--structures", options.structures);
  add("--widths", options.widths);
  add("--tokens", options.tokens);
  add("--implementations", options.implementations);
  return line + fmt::format(
                    " --device {} --dtype {} --repeats {} --threads {}",
                    options.device,
                    options.dtype,
                    options.repeats,
                    options.threads);
}

// The report is whole even so; who reads only the exit code is told.
void check_rows(const Json& rows) {
  const auto failed = [](const Json& row) {
    return row["implementation"] == "einforge" && row.contains("error");
  };
  const auto first = std::ranges::find_if(rows, failed);
  if (first != rows.end()) {
    throw std::runtime_error(fmt::format(
        "bench: {} of {} rows failed where einforge chooses the kernel: {}",
        std::ranges::count_if(rows, failed),
        rows.size(),
        (*first)["error"].get<std::string>()));
  }
}

void run(const Options& options) {
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  check_outputs({options.json.output()});
  const bench::Suite suite{
      .name = options.suite,
      .structures = split_structures(options.structures),
      .widths = parse_widths(options.widths),
      .tokens = options.tokens,
      .implementations = options.implementations};
  const auto device = train::resolve_device(options.device);
  const auto dtype = train::resolve_dtype(options.dtype, device);
  // All layers first: a bad one is told before anything is measured.
  const auto cases = bench::layer_cases(suite, device.is_cuda());
  bench::check_implementations(suite.implementations, device.is_cuda());
  train::MachineLoad load;
  const auto progress = [](const std::string& what) {
    base::note("measuring {}\n", what);
  };
  progress("the ceilings of the machine");
  auto machine = bench::measure_machine(device, dtype, options.repeats);
  Json report = {
      {"command", command_line(options)},
      {"device", bench::to_json(machine)},
      {"rows", Json::array()}};
  // A file has what is measured soon after it is, though not all of it is
  // written anew for each of many layers.
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kBetweenWrites(5);
  Clock::time_point written{};
  const auto keep = [&](const Json& rows) {
    if (options.json.instead() || Clock::now() - written < kBetweenWrites) {
      return;
    }
    report["rows"] = rows;
    options.json.write(report);
    written = Clock::now();
  };
  report["rows"] = bench::measure_layers(cases, machine, progress, keep);
  if (!device.is_cuda()) {
    const std::string reason =
        train::loaded(load.others(), load.cpus(), at::get_num_threads());
    if (!reason.empty()) {
      base::warn(reason);
    }
  }
  if (!options.json.instead()) {
    base::print_text(bench::to_table(report));
  }
  options.json.write(report);
  check_rows(report["rows"]);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("bench", "Times structured layers against dense ones");
  command
      ->add_option(
          "--suite",
          options->suite,
          "layers, paper, decode, moe, widths or coverage")
      ->type_name("SUITE")
      ->capture_default_str();
  command
      ->add_option(
          "--structures",
          options->structures,
          "as `describe --list` names them, with commas between")
      ->type_name("LIST");
  command->add_option("--widths", options->widths, "WIDTH or D_INxD_OUT")
      ->type_name("LIST")
      ->delimiter(',');
  add_number(
      *command, "--tokens", options->tokens, "rows of x, or several", {1, 1e9});
  command
      ->add_option(
          "--implementations",
          options->implementations,
          "only these: dense, einforge, einsum or kernels by name")
      ->type_name("LIST")
      ->delimiter(',');
  command->add_option("--device", options->device, "auto, cpu, cuda or cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "auto, float32 or bfloat16")
      ->type_name("TYPE")
      ->capture_default_str();
  add_number(*command, "--repeats", options->repeats, "rounds", {1, 1e6});
  add_number(
      *command,
      "--threads",
      options->threads,
      "CPU threads; 0: all",
      {0, 4096});
  options->json.add(*command, "the rows");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
