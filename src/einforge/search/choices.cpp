#include "einforge/search/choices.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/models/plan.h"
#include "einforge/search/families.h"
#include "einforge/structure/structure.h"
#include "einforge/train/summary.h"

namespace einforge::search {
namespace {

std::string theta_text(const structure::Theta& theta) {
  return fmt::format("theta:{:g}", fmt::join(theta.values(), ","));
}

// Rounds to hundredths, the sum staying 1, so that the name can be read.
void round_shares(double& a, double& b, double& c) {
  const double first = std::round(100 * a);
  const double second = std::round(100 * (a + b));
  a = first / 100;
  b = (second - first) / 100;
  c = (100 - second) / 100;
}

structure::Theta draw_theta(base::Random& random) {
  structure::Theta theta;
  do {
    theta = structure::sample(random);
    round_shares(theta.alpha, theta.beta, theta.gamma);
    round_shares(theta.delta, theta.epsilon, theta.phi);
    theta.rho = std::round(100 * theta.rho) / 100;
  } while (structure::degenerate(theta));
  return theta;
}

// "monarch@2e-3" is a structure and the learning rate that it has in place of
// the axis's; without an @ the rate is 0.
struct StructureAndRate {
  std::string structure;
  double rate = 0;
};

StructureAndRate split_rate(const std::string& text) {
  const std::size_t at = text.find('@');
  if (at == std::string::npos) {
    return {text};
  }
  const double rate =
      base::parse_double("structures: STRUCTURE@RATE", text.substr(at + 1));
  base::check(
      rate > 0 && std::isfinite(rate),
      "structures: expected a learning rate above 0 after @; got '{}'",
      text);
  return {text.substr(0, at), rate};
}

// The shapes that layers of a kind have at the widths of the search.
std::vector<LayerShape> shapes_of(
    const SearchConfig& config, const std::vector<std::string>& kinds) {
  std::vector<LayerShape> shapes;
  for (const std::int64_t width : config.widths.empty()
                                      ? std::vector{config.train.model.width}
                                      : config.widths) {
    train::TrainConfig trial = config.train;
    trial.model.width = width;
    trial.model.structure = {};
    models::ModelPlan plan;
    try {
      plan = train::plan_model(trial, train::task_shape(trial));
    } catch (const base::InvalidInput&) {
      continue;  // the trials of this width say why
    }
    for (const models::LinearPlan& linear : plan.linears) {
      const LayerShape shape{linear.structure.d_in, linear.structure.d_out};
      const bool wanted =
          kinds.empty() ? linear.kind != "head"
                        : std::find(kinds.begin(), kinds.end(), linear.kind) !=
                              kinds.end();
      if (wanted &&
          std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) {
        shapes.push_back(shape);
      }
    }
  }
  return shapes;
}

// Replaces families with ranges by their members at these kinds of layers; none
// named: at all but the head.
std::vector<std::string> with_members(
    const SearchConfig& config,
    const std::vector<std::string>& texts,
    const std::vector<std::string>& kinds) {
  std::vector<std::string> result;
  for (const std::string& text : texts) {
    if (has_ranges(text)) {
      const auto found = members(text, shapes_of(config, kinds));
      result.insert(result.end(), found.begin(), found.end());
    } else {
      result.push_back(text);
    }
  }
  return result;
}

constexpr const char* kTied = "tied";

// An axis of [space].
struct KindAxis {
  const char* name;
  std::vector<std::string models::StructureConfig::*> layers;
  std::string models::StructureConfig::*tied_to;  // null: to none
  std::vector<std::string> values;
};

std::vector<KindAxis> kind_axes(const SearchConfig& config) {
  using Layers = models::StructureConfig;
  const SpaceConfig& space = config.space;
  std::vector<KindAxis> axes;
  const auto add = [&](const char* name,
                       std::vector<std::string Layers::*> layers,
                       std::string Layers::*tied_to,
                       const std::vector<std::string>& values,
                       const std::vector<std::string>& kinds) {
    if (values.empty()) {
      return;
    }
    KindAxis axis{name, std::move(layers), tied_to, {}};
    for (const std::string& value : with_members(config, values, kinds)) {
      base::check(
          value != kTied || tied_to != nullptr,
          "space.{}: expected a structure; got 'tied', which is for "
          "attention_out and ffn_out",
          name);
      const std::string text =
          value == kTied ? value : structure::parse(value).text;
      if (std::find(axis.values.begin(), axis.values.end(), text) ==
          axis.values.end()) {
        axis.values.push_back(text);
      }
    }
    axes.push_back(std::move(axis));
  };
  add("qkv",
      {&Layers::q, &Layers::k, &Layers::v},
      nullptr,
      space.qkv,
      {"q", "k", "v"});
  add("attention_out",
      {&Layers::attention_out},
      &Layers::q,
      space.attention_out,
      {"attention_out"});
  add("ffn_in", {&Layers::ffn_in}, nullptr, space.ffn_in, {"ffn_in"});
  add("ffn_out",
      {&Layers::ffn_out},
      &Layers::ffn_in,
      space.ffn_out,
      {"ffn_out"});
  add("head", {&Layers::head}, nullptr, space.head, {"head"});
  return axes;
}

Choice combine(
    const SearchConfig& config,
    const std::string& all,
    const std::vector<KindAxis>& axes,
    const std::vector<std::size_t>& picks) {
  Choice choice;
  choice.layers = config.train.model.structure;
  choice.layers.all = all;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const KindAxis& axis = axes[i];
    std::string value = axis.values[picks[i]];
    if (value == kTied) {
      value = choice.layers.*axis.tied_to;
    }
    for (const auto layer : axis.layers) {
      choice.layers.*layer = value;
    }
    choice.name += fmt::format(
        "{}{}={}", i == 0 ? "" : " ", axis.name, value.empty() ? all : value);
  }
  return choice;
}

// The combinations of [space], or a draw of them.
std::vector<Choice> combinations(
    const SearchConfig& config, const std::string& all) {
  if (config.space.empty()) {
    return {};
  }
  base::check(
      config.train.model.kind == "gpt",
      "space: expected model.kind gpt; got '{}'",
      config.train.model.kind);
  const std::vector<KindAxis> axes = kind_axes(config);
  double count = 1;
  for (const KindAxis& axis : axes) {
    count *= static_cast<double>(axis.values.size());
  }
  std::vector<Choice> result;
  std::vector<std::size_t> picks(axes.size());
  if (count <= static_cast<double>(config.space.samples)) {
    for (std::size_t axis = 0; axis < axes.size();) {
      result.push_back(combine(config, all, axes, picks));
      // Counts up, the first axis fastest.
      for (axis = 0; axis < axes.size(); ++axis) {
        if (++picks[axis] < axes[axis].values.size()) {
          break;
        }
        picks[axis] = 0;
      }
    }
    return result;
  }
  base::Random random(config.scheduler.seed);
  std::set<std::vector<std::size_t>> drawn;
  while (static_cast<std::int64_t>(result.size()) < config.space.samples) {
    for (std::size_t i = 0; i < axes.size(); ++i) {
      picks[i] = random.below(axes[i].values.size());
    }
    if (drawn.insert(picks).second) {
      result.push_back(combine(config, all, axes, picks));
    }
  }
  return result;
}

}  // namespace

std::vector<std::string> expand_structures(
    const std::vector<std::string>& structures, std::uint64_t seed) {
  std::vector<std::string> result;
  const auto add = [&](const std::string& text) {
    const auto [structure, rate] = split_rate(text);
    std::string name = structure::parse(structure).text;
    if (rate > 0) {
      name += fmt::format("@{:g}", rate);
    }
    if (std::find(result.begin(), result.end(), name) == result.end()) {
      result.push_back(name);
    }
  };
  base::Random random(seed);
  for (const std::string& text : structures) {
    if (text == "paper_sweep") {
      for (const structure::Theta& theta : structure::paper_sweep()) {
        add(theta_text(theta));
      }
    } else if (text.starts_with("random:")) {
      const long long count =
          base::parse_integer("structures: random:N", text.substr(7));
      base::check(
          count >= 1 && count <= 10'000,
          "structures: expected random:N with N from 1 to 10000; got '{}'",
          text);
      const std::size_t wanted =
          result.size() + static_cast<std::size_t>(count);
      while (result.size() < wanted) {
        add(theta_text(draw_theta(random)));
      }
    } else {
      add(text);
    }
  }
  return result;
}

std::vector<Choice> choices_of(const SearchConfig& config) {
  std::vector<Choice> result;
  for (const std::string& text : expand_structures(
           with_members(config, config.structures, {}),
           config.scheduler.seed)) {
    const auto [name, rate] = split_rate(text);
    result.push_back({name, rate, config.train.model.structure});
    result.back().layers.all = name;
  }
  for (Choice& choice : combinations(config, result.front().name)) {
    result.push_back(std::move(choice));
  }
  return result;
}

}  // namespace einforge::search
