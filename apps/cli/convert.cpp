#include <fmt/format.h>

#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/json.h"
#include "einforge/interop/convert.h"

namespace einforge::cli {
namespace {

using base::Json;

struct Options {
  std::string in;
  std::string out;
  interop::ConvertOptions convert{
      // Tables that are read by row, and what is tied to them.
      .except = {"*emb*", "*wte", "*wpe", "*shared", "*lm_head"}};
  JsonOption json;
};

constexpr const char* kExamples = R"(
Examples:
  einforge convert model.safetensors --structure btt:0.25 \
    --layers "*.mlp.*" --out smaller.safetensors
  einforge convert model.safetensors --structure monarch --transposed \
    --layers "*.up" --layers "*.down" --out out.safetensors --json

NAME.weight becomes NAME.core_a, .core_b, .gain_a and .gain_b, the state of an
einforge.nn.Linear; docs/from_pytorch.md says how to load them. Structures of
several kinds: convert the output again.)";

std::string pair(double before, double after) {
  return fmt::format("{:.4g} -> {:.4g}", before, after);
}

void print_layer(const interop::ConvertedLayer& layer) {
  if (!layer.skipped.empty()) {
    base::print("{}  kept: {}\n", layer.name, layer.skipped);
    return;
  }
  base::print(
      "{}  {} -> {}  {}  error {:.4f}  parameters {}{}\n",
      layer.name,
      layer.d_in,
      layer.d_out,
      layer.structure,
      *layer.relative_error,
      pair(
          static_cast<double>(layer.parameters[0]),
          static_cast<double>(layer.parameters[1])),
      layer.ms ? "  ms " + pair((*layer.ms)[0], (*layer.ms)[1]) : "");
}

void run(const Options& options) {
  check_outputs({{"--out", options.out}, options.json.output()}, {options.in});
  const bool shown = !options.json.instead();
  const auto layers = interop::convert(
      options.in,
      options.out,
      options.convert,
      [&](const interop::ConvertedLayer& layer) {
        if (shown) {
          print_layer(layer);
        }
      });
  Json rows = Json::array();
  for (const auto& layer : layers) {
    rows.push_back(interop::to_json(layer));
  }
  options.json.write({{"layers", rows}});
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "convert", "Give the matrices of a safetensors file a structure");
  command->add_option("in", options->in, "a safetensors file")->required();
  interop::ConvertOptions& convert = options->convert;
  command->add_option("--structure", convert.structure, "NAME as of describe")
      ->type_name("NAME")
      ->required();
  command->add_option("--out", options->out, "the file to write")
      ->type_name("FILE")
      ->required();
  command
      ->add_option(
          "--layers",
          convert.layers,
          "names of layers, without .weight; * matches dots too; repeatable")
      ->type_name("PATTERN")
      ->allow_extra_args(false)  // a file may follow
      ->capture_default_str();
  command
      ->add_option(
          "--except", convert.except, "names of layers that stay; repeatable")
      ->type_name("PATTERN")
      ->allow_extra_args(false)
      ->capture_default_str();
  command->add_flag(
      "--transposed",
      convert.transposed,
      "weights are (d_in, d_out), as those of transformers' Conv1D");
  add_number(
      *command,
      "--tokens",
      convert.tokens,
      "vectors with which layers are timed; 0: not timed",
      {0, 1e7});
  command->add_flag(
      "--skip-if-slower",
      convert.skip_if_slower,
      "a layer that takes longer stays as it is");
  command->add_option("--device", convert.device, "auto, cpu, cuda, cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str();
  options->json.add(*command, "a row for each layer");
  command->footer(kExamples);
  command->callback([options] { run(*options); });
}

}  // namespace einforge::cli
