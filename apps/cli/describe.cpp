#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/options.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"
#include "einforge/structure/json.h"
#include "einforge/structure/structure.h"

namespace einforge::cli {
namespace {

using base::Json;
using structure::Spec;
using structure::Structure;
using structure::Taxonomy;
using structure::Theta;

struct Options {
  std::string spec;
  std::optional<std::int64_t> d_in;
  std::optional<std::int64_t> d_out;
  structure::FactorOptions factors;
  std::string flops;
  bool list = false;
  JsonOption json;
};

constexpr const char* kExamples = R"(
Examples:
  einforge describe monarch --d-in 768
  einforge describe btt:0.25 --d-in 768 --d-out 3072 --json
  einforge describe theta:0.5,0,0.5,0,0.5,0.5,0 --d-in 1024
  einforge describe tensor_train:0.25,alpha=1/3 --d-in 4096
  einforge describe btt_moe:E=16,k=2 --d-in 1024
  einforge describe --list

docs/structures.md says what the names and numbers mean.)";

const char* order_name(const Structure& layer) {
  return structure::cheaper_order(layer.sizes) == structure::Order::kAB ? "AB"
                                                                        : "BA";
}

template <typename Values>
void print_seven(const char* label, const Values& values, const char* format) {
  base::print("  {:<10}", label);
  for (const auto value : values) {
    base::print("{:>9}", fmt::format(fmt::runtime(format), value));
  }
  base::print("\n");
}

void print_mixture(const Structure& layer) {
  const structure::Mixture& mixture = *layer.spec.mixture;
  const Structure one = structure::expert(layer);
  base::print(
      "  experts     {}, of which a token takes {}; each has {} parameters\n"
      "  router      {} parameters, as many MACs\n",
      mixture.experts,
      mixture.active,
      structure::parameters(one),
      structure::router_parameters(layer));
  if (layer.spec.family == "ffn_moe") {
    base::print(
        "  one of the two matrices of a feed-forward network, which share a "
        "router\n");
  }
}

void print_layer(const Structure& layer, bool paper) {
  const Taxonomy real = structure::taxonomy(layer);
  const Taxonomy ideal = structure::taxonomy(layer.spec.theta);
  const std::int64_t dense = layer.d_in * layer.d_out;
  const auto against_dense = [&](std::int64_t count) {
    return fmt::format(
        "{:<12} {:.3g} x dense ({})",
        count,
        static_cast<double>(count) / static_cast<double>(dense),
        dense);
  };
  base::print("{}, {} -> {}\n", layer.spec.text, layer.d_in, layer.d_out);
  const Structure inner = structure::padded(layer);
  if (inner != layer) {
    base::print(
        "padded to {} -> {}: {} zero features in, {} features out dropped\n",
        inner.d_in,
        inner.d_out,
        inner.d_in - layer.d_in,
        inner.d_out - layer.d_out);
  }
  base::print("\n");
  print_seven(
      "",
      std::vector<const char*>{
          "alpha", "beta", "gamma", "delta", "epsilon", "phi", "rho"},
      "{}");
  print_seven("asked", layer.spec.theta.values(), "{:.3f}");
  print_seven("realised", structure::realised_theta(layer).values(), "{:.3f}");
  print_seven("size", layer.sizes.values(), "{}");
  base::print("\n  {:<10}{:>9}{:>12}\n", "", "realised", "asymptotic");
  const auto row = [](const char* name, double a, double b, const char* what) {
    base::print("  {:<10}{:>9.3f}{:>12.3f}   {}\n", name, a, b, what);
  };
  row("omega", real.omega, ideal.omega, "MACs / parameters = d^omega");
  row("psi", real.psi, ideal.psi, "rank = d^psi");
  row("nu", real.nu, ideal.nu, "MACs = d^(1 + nu)");
  if (structure::degenerate(layer.spec.theta)) {
    base::print("  degenerate: costs more than dense and adds nothing\n");
  }
  base::print(
      "\n  parameters  {}\n  MACs        {}\n  FLOPs       {} per vector, "
      "forward{}\n  rank        {} of {}\n",
      against_dense(structure::parameters(layer)),
      against_dense(structure::macs(layer)),
      2 * structure::macs(layer),
      paper
          ? fmt::format(
                "; the paper's unit, forward MACs: {}", structure::macs(layer))
          : "",
      structure::generic_rank(layer),
      std::min(layer.d_in, layer.d_out));
  if (!layer.dense) {
    base::print("  order       {}\n", order_name(layer));
  }
  if (layer.spec.mixture) {
    print_mixture(layer);
  }
  base::print("\n");
  const char* name = layer.dense ? "matrix" : "core A";
  for (const auto& core : structure::parametrisation(layer)) {
    base::print(
        "  {}  {} -> {}, init std {:.4g}, learning rate x {:.4g}\n",
        name,
        core.shape.d_in,
        core.shape.d_out,
        core.init_std,
        core.lr_multiplier);
    name = "core B";
  }
  if (layer.spec.mixture) {
    base::print(
        "  router  {} -> {}, init 0, learning rate x {:.4g}\n",
        layer.d_in,
        layer.spec.mixture->experts,
        structure::router_lr_multiplier(layer));
  }
}

std::vector<Spec> named_structures() {
  std::vector<Spec> specs;
  for (const std::string& family : structure::families()) {
    if (family != "theta") {
      const bool mixture = family.ends_with("_moe");
      specs.push_back(
          structure::parse(mixture ? family + ":E=16,k=2" : family));
    }
  }
  specs.push_back(structure::parse("tensor_train:0.25,alpha=1/3"));
  return specs;
}

std::vector<Spec> swept_structures() {
  std::vector<Spec> specs;
  for (const Theta& theta : structure::paper_sweep()) {
    specs.push_back(structure::to_spec(theta));
  }
  return specs;
}

Json list_json(const std::vector<Spec>& specs) {
  Json rows = Json::array();
  for (const Spec& spec : specs) {
    Json row = {
        {"structure", spec.text},
        {"family", spec.family},
        {"theta", spec.theta.values()}};
    row.update(structure::to_json(structure::taxonomy(spec.theta)));
    rows.push_back(row);
  }
  return rows;
}

void print_list(const char* title, const std::vector<Spec>& specs) {
  base::print(
      "{:<40}{:>42}{:>7}{:>7}{:>7}\n",
      title,
      "alpha  beta gamma delta epsln   phi   rho",
      "omega",
      "psi",
      "nu");
  for (const Spec& spec : specs) {
    std::string theta;
    for (const double value : spec.theta.values()) {
      theta += fmt::format("{:>6}", fmt::format("{:.3g}", value));
    }
    const Taxonomy t = structure::taxonomy(spec.theta);
    base::print(
        "{:<40}{}{:>7.3g}{:>7.3g}{:>7.3g}\n",
        "  " + spec.text,
        theta,
        t.omega,
        t.psi,
        t.nu);
  }
}

void describe(const Options& options) {
  check_outputs({options.json.output()});
  if (options.list) {
    const auto named = named_structures();
    const auto swept = swept_structures();
    options.json.write(
        {{"structures", list_json(named)}, {"paper_sweep", list_json(swept)}});
    if (options.json.instead()) {
      return;
    }
    print_list("Named structures", named);
    base::print("\n");
    print_list("The paper's sweep (arXiv 2410.02117)", swept);
    return;
  }
  base::check(
      !options.spec.empty(),
      "describe: expected a structure, such as monarch, or --list; got none");
  const Spec spec = structure::parse(options.spec);
  base::check(
      options.d_in.has_value(), "describe: expected --d-in N; got none");
  const std::int64_t d_in = *options.d_in;
  const std::int64_t d_out = options.d_out.value_or(d_in);
  const Structure layer =
      structure::realise(spec, d_in, d_out, options.factors);
  options.json.write(structure::to_json(layer));
  if (!options.json.instead()) {
    print_layer(layer, options.flops == "paper");
  }
}

}  // namespace

void add_describe(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "describe",
      "What a structure is at a width: sizes, cost, rank, taxonomy");
  command->add_option(
      "structure",
      options->spec,
      "NAME, NAME:RANK_EXPONENT, NAME:KEY=VALUE,... or theta:a,b,g,d,e,f,r");
  constexpr double kWidest = 1e9;
  add_number(*command, "--d-in", options->d_in, "features in", {1, kWidest});
  add_number(
      *command,
      "--d-out",
      options->d_out,
      "features out; as many as in, if not given",
      {1, kWidest});
  add_number(
      *command,
      "--multiple",
      options->factors.preferred_multiple,
      "prefer sizes that are multiples of this",
      {1, kWidest});
  add_number(
      *command,
      "--tolerance",
      options->factors.tolerance,
      "how far a realised exponent may be from the asked one",
      {0, 1});
  command
      ->add_option(
          "--flops", options->flops, "paper: show compute in its unit too")
      ->type_name("causal|paper")
      ->check(one_of("--flops", {"causal", "paper"}));
  command->add_flag(
      "--list", options->list, "the named structures and the paper's sweep");
  options->json.add(*command);
  command->footer(kExamples);
  command->callback([options] { describe(*options); });
}

}  // namespace einforge::cli
