#include "einforge/search/candidate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>

#include "einforge/models/plan.h"
#include "einforge/search/scheduler.h"
#include "einforge/structure/structure.h"
#include "einforge/train/summary.h"

namespace einforge::search {
namespace {

using Row = std::vector<double>;

double exponent(std::int64_t size, std::int64_t width) {
  return width > 1 ? std::log(static_cast<double>(size)) /
                         std::log(static_cast<double>(width))
                   : 0;
}

Row layer_features(const structure::Structure& made) {
  const structure::Taxonomy taxonomy = structure::taxonomy(made);
  const structure::Mixture mixture =
      made.spec.mixture.value_or(structure::Mixture{});
  const structure::Sizes& sizes = made.sizes;
  return {
      exponent(sizes.alpha, sizes.d_in()),
      exponent(sizes.epsilon, sizes.d_out()),
      exponent(sizes.rho, std::min(sizes.d_in(), sizes.d_out())),
      std::log(static_cast<double>(mixture.experts)),
      std::log(static_cast<double>(mixture.active)),
      taxonomy.omega,
      taxonomy.psi};
}

// What is known of a model, whatever its learning rate.
struct ModelFeatures {
  std::vector<std::string> specs;  // beside the kinds of layers
  std::vector<Row> layers;
  Row model;
  double omega = 0;
  double psi = 0;
};

ModelFeatures features_of(const Proposal& proposal) {
  const train::TrainConfig& config = proposal.config;
  const models::ModelPlan plan =
      train::plan_model(config, train::task_shape(config));
  ModelFeatures result;
  for (const models::LinearPlan& linear : plan.linears) {
    const structure::Structure& made = linear.structure;
    result.specs.push_back(made.spec.text);
    result.layers.push_back(layer_features(made));
    const auto kinds = static_cast<double>(plan.linears.size());
    result.omega += result.layers.back()[5] / kinds;
    result.psi += result.layers.back()[6] / kinds;
  }
  result.model = {
      std::log(static_cast<double>(plan.parameters())),
      std::log(static_cast<double>(plan.macs())),
      std::log(static_cast<double>(config.model.width)),
      std::log(static_cast<double>(config.model.layers))};
  return result;
}

// The kinds of layers whose structure is not that of an earlier kind in every
// model.
std::vector<std::size_t> different_kinds(
    const std::map<std::string, ModelFeatures>& models) {
  std::vector<std::size_t> kinds;
  const std::size_t count = models.begin()->second.specs.size();
  for (std::size_t kind = 0; kind < count; ++kind) {
    const auto tied = [&](std::size_t earlier) {
      return std::all_of(models.begin(), models.end(), [&](const auto& entry) {
        return entry.second.specs[earlier] == entry.second.specs[kind];
      });
    };
    if (std::none_of(kinds.begin(), kinds.end(), tied)) {
      kinds.push_back(kind);
    }
  }
  return kinds;
}

void scale_to_unit(std::vector<Candidate>& candidates) {
  const auto used = [](const Candidate& candidate) {
    return candidate.buildable;
  };
  const auto first = std::find_if(candidates.begin(), candidates.end(), used);
  if (first == candidates.end()) {
    return;
  }
  Row least = first->features;
  Row greatest = least;
  for (const Candidate& candidate : candidates) {
    for (std::size_t i = 0; used(candidate) && i < least.size(); ++i) {
      least[i] = std::min(least[i], candidate.features[i]);
      greatest[i] = std::max(greatest[i], candidate.features[i]);
    }
  }
  constexpr double kSame = 1e-9;
  for (Candidate& candidate : candidates) {
    Row scaled;
    std::size_t structure = 0;
    std::size_t size = 0;
    for (std::size_t i = 0; used(candidate) && i < least.size(); ++i) {
      if (const double range = greatest[i] - least[i]; range > kSame) {
        scaled.push_back((candidate.features[i] - least[i]) / range);
        structure += i < candidate.of_structure ? 1 : 0;
        size += i >= candidate.of_structure &&
                        i < candidate.of_structure + candidate.of_size
                    ? 1
                    : 0;
      }
    }
    candidate.of_structure = structure;
    candidate.of_size = size;
    candidate.features = std::move(scaled);
  }
}

}  // namespace

std::string baseline_of(const std::vector<Proposal>& proposals) {
  std::string first;
  for (const Proposal& proposal : proposals) {
    if (proposal.trial.status != store::Status::kFailed) {
      if (proposal.trial.structure == "dense") {
        return "dense";
      }
      first = first.empty() ? proposal.trial.structure : first;
    }
  }
  return first;
}

std::vector<Candidate> candidates_of(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    const std::map<std::string, double>& speeds,
    const CostTable& costs) {
  std::map<std::string, ModelFeatures> models;
  std::map<std::string, int> kind_numbers;
  for (const Proposal& proposal : proposals) {
    const std::string kind = kind_of(proposal);
    if (proposal.trial.status != store::Status::kFailed &&
        !models.contains(kind)) {
      models.emplace(kind, features_of(proposal));
      kind_numbers.emplace(kind, static_cast<int>(kind_numbers.size()));
    }
  }
  std::vector<Candidate> result(proposals.size());
  if (models.empty()) {
    return result;
  }
  const std::vector<std::size_t> kinds = different_kinds(models);
  const std::string baseline = baseline_of(proposals);
  const int rungs = static_cast<int>(rung_count(config.scheduler));
  for (std::size_t i = 0; i < proposals.size(); ++i) {
    const Proposal& proposal = proposals[i];
    Candidate& candidate = result[i];
    candidate.buildable = proposal.trial.status != store::Status::kFailed;
    if (!candidate.buildable) {
      continue;
    }
    const std::string kind = kind_of(proposal);
    const ModelFeatures& model = models.at(kind);
    candidate.kind = kind_numbers.at(kind);
    if (const auto speed = speeds.find(kind); speed != speeds.end()) {
      candidate.speed = speed->second;
    }
    if (const auto cost = costs.find(kind); cost != costs.end()) {
      candidate.costs = cost->second;
    }
    candidate.baseline = proposal.trial.structure == baseline;
    candidate.width = static_cast<double>(proposal.config.model.width);
    candidate.omega = model.omega;
    candidate.psi = model.psi;
    for (const std::size_t index : kinds) {
      const Row& layer = model.layers[index];
      candidate.features.insert(
          candidate.features.end(), layer.begin(), layer.end());
    }
    candidate.of_structure = candidate.features.size();
    candidate.of_size = model.model.size();
    candidate.features.insert(
        candidate.features.end(), model.model.begin(), model.model.end());
    candidate.features.push_back(std::log(proposal.trial.learning_rate));
    const auto steps = static_cast<double>(proposal.config.steps);
    for (int rung = 0; rung < rungs; ++rung) {
      const double share = static_cast<double>(rung_steps(
                               proposal.config.steps,
                               proposal.config.eval_every,
                               rung,
                               rungs,
                               static_cast<int>(config.scheduler.eta))) /
                           steps;
      candidate.tokens.push_back(share * static_cast<double>(proposal.tokens));
      candidate.flops.push_back(share * proposal.flops);
    }
  }
  scale_to_unit(result);
  return result;
}

}  // namespace einforge::search
