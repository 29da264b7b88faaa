#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cctype>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/bench/layers.h"
#include "einforge/train/device.h"

namespace einforge::cli {
namespace {

using base::Json;

struct Options {
  std::string suite = "layers";
  std::vector<std::string> structures{"monarch"};
  std::vector<std::string> widths{"1024", "2048"};
  std::int64_t tokens = 2048;
  std::string device = "auto";
  std::string dtype = "auto";
  std::int64_t repeats = 15;
  int threads = 0;
  std::string json;
};

constexpr const char* kExamples = R"(
Examples:
  einforge bench
  einforge bench --structures monarch,btt:0.25 --widths 1024,1024x4096
  einforge bench --device cuda --dtype bfloat16 --tokens 32768 --json rows.json
  einforge bench --json

--json gives {command, device, rows}: a row for each layer, pass (forward,
forward_backward) and implementation (dense; einforge, what a user gets; each
kernel by name; einsum), with median_ms, min_ms, spread, gflops, limit_ms (what
the matmul and copy speeds measured in the same run allow) and ratio_to_dense
(dense's time / this time). Implementations take turns in every round.)";

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

// A comma separates structures, and a structure's own numbers and settings: one
// that is followed by a name starts a new structure.
std::vector<std::string> split_structures(
    const std::vector<std::string>& texts) {
  std::vector<std::string> structures;
  for (const std::string& text : texts) {
    bool first = true;
    for (const std::string& part : base::split(text, ',')) {
      const bool named = !part.empty() &&
                         std::isalpha(static_cast<unsigned char>(part[0])) &&
                         part.find('=') == std::string::npos;
      if (first || named) {
        structures.push_back(part);
      } else {
        structures.back() += "," + part;
      }
      first = false;
    }
  }
  return structures;
}

std::string command_line(const Options& options) {
  return fmt::format(
      "einforge bench --suite {} --structures {} --widths {} --tokens {} "
      "--device {} --dtype {} --repeats {} --threads {}",
      options.suite,
      fmt::join(options.structures, ","),
      fmt::join(options.widths, ","),
      options.tokens,
      options.device,
      options.dtype,
      options.repeats,
      options.threads);
}

void run(const Options& options) {
  base::check(
      options.suite == "layers",
      "--suite: expected layers; got '{}'",
      options.suite);
  const auto check_least = [](const char* name, auto value, int least) {
    base::check(
        value >= least,
        "{}: expected a whole number of at least {}; got {}",
        name,
        least,
        value);
  };
  check_least("--tokens", options.tokens, 1);
  check_least("--repeats", options.repeats, 1);
  check_least("--threads", options.threads, 0);
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  }
  bench::LayersOptions layers;
  layers.structures = split_structures(options.structures);
  layers.widths = parse_widths(options.widths);
  layers.tokens = options.tokens;
  layers.device = train::resolve_device(options.device);
  layers.dtype = train::resolve_dtype(options.dtype, layers.device);
  layers.repeats = options.repeats;
  Json report = {{"command", command_line(options)}};
  report.update(bench::measure_layers(layers, [](const std::string& what) {
    fmt::print(stderr, "measuring {}\n", what);
  }));
  if (options.json.empty()) {
    fmt::print("{}", bench::to_table(report));
  } else if (options.json == "-") {
    fmt::print("{}\n", report.dump(2));
  } else {
    base::write_file_atomically(options.json, report.dump(2) + "\n");
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("bench", "Times structured layers against dense ones");
  command->add_option("--suite", options->suite, "layers")
      ->capture_default_str();
  command
      ->add_option(
          "--structures",
          options->structures,
          "as `describe --list` names them, with commas between")
      ->capture_default_str();
  command->add_option("--widths", options->widths, "WIDTH or D_INxD_OUT")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "rows of x")
      ->capture_default_str();
  command->add_option("--device", options->device, "auto, cpu, cuda or cuda:N")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "auto, float32 or bfloat16")
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "rounds")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: all")
      ->capture_default_str();
  command
      ->add_option("--json", options->json, "print JSON, or write it to FILE")
      ->expected(0, 1)
      ->default_str("-")
      ->type_name("[FILE]");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
