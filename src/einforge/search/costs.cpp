#include "einforge/search/costs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/models/plan.h"
#include "einforge/train/summary.h"

namespace einforge::search {
namespace {

constexpr const char* kLayerTimes = "layer_ms";
constexpr const char* kCosts = "costs";

models::ModelPlan plan_of(const Proposal& proposal) {
  return train::plan_model(proposal.config, train::task_shape(proposal.config));
}

double number(const base::Json& json) {
  return json.is_number() ? json.get<double>() : NAN;
}

base::Json section(const store::Store& store, const char* key) {
  base::Json all = store.metadata();
  const auto found = all.find(key);
  return found != all.end() && found->is_object() ? *found
                                                  : base::Json::object();
}

}  // namespace

bool weighs(const SearchConfig& config, Cost cost) {
  const std::vector<Cost> objectives = parse_objective(config.objective);
  return std::ranges::find(objectives, cost) != objectives.end() ||
         std::ranges::any_of(config.constraints, [&](const auto& text) {
           return parse_constraint(text).cost == cost;
         });
}

double estimated_memory(const Proposal& proposal, std::int64_t processes) {
  constexpr double kFloat = 4;
  const train::TaskShape shape = train::task_shape(proposal.config);
  const models::ModelPlan plan = train::plan_model(proposal.config, shape);
  const models::ModelConfig& model = proposal.config.model;
  const double tokens =
      static_cast<double>(shape.tokens) / static_cast<double>(processes);
  double kept = 0;  // for each token
  for (const models::LinearPlan& linear : plan.linears) {
    const structure::Structure& layer = linear.structure;
    // A block's k and v read what q reads; the loss has the head's output.
    const bool reads = linear.kind != "k" && linear.kind != "v";
    const bool writes = linear.kind != "head";
    const auto active = layer.spec.mixture
                            ? static_cast<double>(layer.spec.mixture->active)
                            : 1.0;
    kept += static_cast<double>(linear.count) *
            ((reads ? static_cast<double>(layer.d_in) : 0) +
             (writes ? active * static_cast<double>(layer.d_out) : 0));
  }
  constexpr double kNorms = 2;  // of a block
  kept += kNorms * static_cast<double>(model.layers * model.width);
  constexpr double kMostLogits = 1 << 27;  // at once; models/token_loss.h
  const double logits =
      std::min(kMostLogits, tokens * static_cast<double>(shape.outputs));
  return kFloat * (4 * static_cast<double>(plan.parameters()) + tokens * kept +
                   4 * logits);
}

std::vector<DecodeLayer> decode_layers(const Proposal& proposal) {
  const models::ModelPlan plan = plan_of(proposal);
  std::vector<DecodeLayer> result;
  for (const models::LinearPlan& linear : plan.linears) {
    if (linear.kind == "ffn_out" && plan.ffn_moe()) {
      continue;
    }
    const structure::Structure layer = structure::padded(linear.structure);
    const structure::Mixture mixture =
        layer.spec.mixture.value_or(structure::Mixture{});
    result.push_back(
        {layer,
         static_cast<double>(linear.count),
         fmt::format(
             "{} {}x{} ({}; {} of {}{})",
             layer.spec.family,
             layer.d_in,
             layer.d_out,
             fmt::join(layer.sizes.values(), ","),
             mixture.active,
             mixture.experts,
             layer.dense ? ", dense" : "")});
  }
  return result;
}

double decode_milliseconds(
    const Proposal& proposal, const std::map<std::string, double>& times) {
  double sum = 0;
  for (const DecodeLayer& part : decode_layers(proposal)) {
    const auto found = times.find(part.key);
    sum += found == times.end() ? NAN : part.count * found->second;
  }
  return sum;
}

std::map<std::string, double> read_layer_times(const store::Store& store) {
  std::map<std::string, double> result;
  const base::Json times = section(store, kLayerTimes);
  for (const auto& item : times.items()) {
    if (const double time = number(item.value()); time > 0) {
      result.emplace(item.key(), time);
    }
  }
  return result;
}

void write_layer_times(
    store::Store& store, const std::map<std::string, double>& times) {
  store.set_metadata(kLayerTimes, times);
}

CostTable read_costs(const store::Store& store) {
  CostTable result;
  const base::Json costs = section(store, kCosts);
  for (const auto& item : costs.items()) {
    if (item.value().is_object()) {
      result[item.key()] = {
          number(item.value().value("memory", base::Json())),
          number(item.value().value("decode_ms", base::Json()))};
    }
  }
  return result;
}

void write_costs(store::Store& store, const CostTable& costs) {
  base::Json json = base::Json::object();
  for (const auto& [kind, cost] : costs) {
    for (const Cost which : {Cost::kMemory, Cost::kDecodeMs}) {
      if (const double value = cost.at(which); !std::isnan(value)) {
        json[kind][to_string(which)] = value;
      }
    }
  }
  store.set_metadata(kCosts, json);
}

std::string apply_constraints(
    const SearchConfig& config,
    const CostTable& costs,
    std::vector<Proposal>& proposals) {
  if (config.constraints.empty()) {
    return "";
  }
  const std::size_t all = proposals.size();
  std::vector<bool> out(all);
  std::vector<std::string> parts;
  std::vector<std::string> nearest;
  for (const std::string& text : config.constraints) {
    const Constraint constraint = parse_constraint(text);
    std::size_t broken = 0;
    double least = INFINITY;
    std::string best;
    for (std::size_t i = 0; i < all; ++i) {
      const Proposal& proposal = proposals[i];
      const auto found = costs.find(kind_of(proposal));
      if (proposal.trial.status == store::Status::kFailed ||
          found == costs.end()) {
        continue;
      }
      const double cost = found->second.at(constraint.cost);
      if (cost < least) {
        least = cost;
        best = kind_of(proposal);
      }
      if (cost > constraint.most) {
        out[i] = true;
        ++broken;
      }
    }
    parts.push_back(fmt::format("{} leaves out {}", constraint.text, broken));
    nearest.push_back(fmt::format(
        "{} (the least is {}, of {})",
        constraint.text,
        human_cost(constraint.cost, least),
        best));
  }
  std::vector<Proposal> left;
  bool any = false;
  for (std::size_t i = 0; i < all; ++i) {
    if (!out[i]) {
      any |= proposals[i].trial.status != store::Status::kFailed;
      left.push_back(std::move(proposals[i]));
    }
  }
  base::check(
      any,
      "constraints: no trial of the search keeps {}",
      fmt::join(nearest, " and "));
  proposals = std::move(left);
  return fmt::format(
      "{} of {} trials were not trained: {}.",
      all - proposals.size(),
      all,
      fmt::join(parts, ", "));
}

}  // namespace einforge::search
