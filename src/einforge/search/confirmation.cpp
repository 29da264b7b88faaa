#include "einforge/search/confirmation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "einforge/search/baseline_line.h"
#include "einforge/search/candidate.h"
#include "einforge/search/objective.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;

bool in_seconds(const SearchConfig& config) {
  return parse_objective(config.objective).front() == Cost::kSeconds;
}

double compute_of(const SearchConfig& config, const store::CurvePoint& point) {
  return in_seconds(config) ? point.seconds : point.flops;
}

void add_points(
    const SearchConfig& config,
    Ledger& ledger,
    const Trial& trial,
    std::vector<ComputeLoss>& points) {
  for (const store::CurvePoint& point : ledger.store().curve(trial.id)) {
    const double compute = compute_of(config, point);
    if (compute > 0 && point.val_loss > 0) {
      points.push_back({std::log(compute), std::log(point.val_loss)});
    }
  }
}

double compute_of(const SearchConfig& config, const Trial& trial) {
  return in_seconds(config) ? trial.seconds : trial.flops;
}

bool ended(const Trial& trial) {
  return trial.status == Status::kDone && trial.final_loss > 0 &&
         trial.flops > 0;
}

// Of the baseline, on all of its curves.
BaselineLine line_of(
    const SearchConfig& config, const std::string& baseline, Ledger& ledger) {
  std::vector<ComputeLoss> points;
  for (const Trial& trial : ledger.trials()) {
    if (trial.structure == baseline && !is_bad(trial) && trial.rung > 0) {
      add_points(config, ledger, trial, points);
    }
  }
  return fit_baseline(std::move(points));
}

std::int64_t next_width(const SearchConfig& config, std::int64_t width) {
  std::int64_t next = 2 * width;
  for (const std::int64_t other : config.widths) {
    if (other > width) {
      next = std::min(next, other);
    }
  }
  return next;
}

// The 97.5% quantile of Student's t. Above 4 degrees of freedom the
// Cornish-Fisher expansion, which is then within 1%.
double student(int freedom) {
  constexpr std::array<double, 4> kFew = {12.706, 4.303, 3.182, 2.776};
  if (freedom <= 4) {
    return kFew.at(static_cast<std::size_t>(freedom - 1));
  }
  constexpr double kZ = 1.959964;
  const double f = freedom;
  return kZ + (std::pow(kZ, 3) + kZ) / (4 * f) +
         (5 * std::pow(kZ, 5) + 16 * std::pow(kZ, 3) + 3 * kZ) / (96 * f * f);
}

}  // namespace

Confirmation confirmation(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Ledger& ledger) {
  Confirmation result;
  result.config = config;
  result.config.name += ", confirmation";
  result.config.out = (Folder{config.out}.root / "confirm").string();
  if (!config.store.empty()) {
    result.config.store = folder_of(config).database + "_confirm";
  }
  result.config.scheduler.kind = "grid";
  result.looked_at = proposals.size();
  const std::string baseline = baseline_of(proposals);
  const BaselineLine line = line_of(config, baseline, ledger);

  struct Best {
    double gain = -INFINITY;
    std::size_t place = 0;
  };
  std::map<std::string, Best> best;
  for (std::size_t place = 0; place < proposals.size(); ++place) {
    const Trial& trial = ledger.trials()[place];
    if (ended(trial)) {
      const double gain = line.log_multiplier(
          std::log(compute_of(config, trial)), std::log(trial.final_loss));
      Best& found = best[trial.structure];
      if (gain > found.gain) {
        found = {gain, place};
      }
    }
  }
  const auto dense = best.find(baseline);
  if (dense == best.end() || best.size() == 1) {
    return result;
  }
  std::vector<Best> order = {dense->second};
  best.erase(dense);
  std::vector<Best> others;
  for (const auto& [structure, found] : best) {
    others.push_back(found);
  }
  std::stable_sort(
      others.begin(), others.end(), [](const Best& a, const Best& b) {
        return a.gain > b.gain;
      });
  others.resize(
      std::min(others.size(), static_cast<std::size_t>(config.confirm.top)));
  order.insert(order.end(), others.begin(), others.end());

  const std::uint64_t fresh =
      *std::max_element(config.seeds.begin(), config.seeds.end()) + 1;
  for (const Best& chosen : order) {
    const Proposal& proposal = proposals[chosen.place];
    const std::int64_t width = proposal.config.model.width;
    for (const std::int64_t size : {width, next_width(config, width)}) {
      for (std::int64_t seed = 0; seed < config.confirm.seeds; ++seed) {
        result.proposals.push_back(again(
            result.config,
            proposal,
            size,
            fresh + static_cast<std::uint64_t>(seed)));
      }
    }
  }
  return result;
}

std::string confirmed(const Confirmation& confirmation, Ledger& ledger) {
  if (confirmation.proposals.empty()) {
    return "";
  }
  const SearchConfig& config = confirmation.config;
  const std::string baseline = confirmation.proposals.front().trial.structure;
  const BaselineLine line = line_of(config, baseline, ledger);
  struct Runs {
    std::vector<double> gains;
    std::set<std::int64_t> widths;
    double least_loss = INFINITY;
  };
  std::map<std::string, Runs> structures;
  // Runs that differ in seed alone, for the noise.
  std::map<std::pair<std::string, std::string>, std::vector<double>> twins;
  for (std::size_t place = 0; place < confirmation.proposals.size(); ++place) {
    const Trial& trial = ledger.trials()[place];
    if (!ended(trial)) {
      continue;
    }
    const double gain = line.log_multiplier(
        std::log(compute_of(config, trial)), std::log(trial.final_loss));
    Runs& runs = structures[trial.structure];
    runs.gains.push_back(gain);
    runs.least_loss = std::min(runs.least_loss, trial.final_loss);
    runs.widths.insert(confirmation.proposals[place].config.model.width);
    twins[{trial.structure, trial.model}].push_back(gain);
  }
  double squares = 0;
  int freedom = 0;
  const auto mean = [](const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) {
      sum += value;
    }
    return sum / static_cast<double>(values.size());
  };
  for (const auto& [key, gains] : twins) {
    for (const double gain : gains) {
      squares += (gain - mean(gains)) * (gain - mean(gains));
    }
    freedom += static_cast<int>(gains.size()) - 1;
  }
  if (!structures.contains(baseline) || freedom < 1) {
    return "";
  }
  const auto inverse = [](const Runs& runs) {
    return 1 / static_cast<double>(runs.gains.size());
  };
  const double reached = structures[baseline].least_loss;
  std::vector<std::pair<double, std::string>> sentences;
  for (const auto& [structure, runs] : structures) {
    if (structure == baseline) {
      continue;
    }
    const double gain = mean(runs.gains);
    const double half =
        student(freedom) * std::sqrt(
                               squares / freedom *
                               (inverse(runs) + inverse(structures[baseline])));
    sentences.emplace_back(
        -gain,
        fmt::format(
            "{} reaches the loss of {} with {:.3g} times {} {} (95%: {:.3g} to "
            "{:.3g}; {} runs on fresh seeds, width{} {}{})",
            structure,
            baseline,
            std::exp(std::abs(gain)),
            gain < 0 ? "more" : "less",
            in_seconds(config) ? "time" : "compute",
            std::exp(std::abs(gain) - half),
            std::exp(std::abs(gain) + half),
            runs.gains.size(),
            runs.widths.size() == 1 ? "" : "s",
            fmt::join(runs.widths, " and "),
            runs.least_loss < reached
                ? fmt::format(
                      "; extrapolated: {} ended at loss {:.4g}",
                      baseline,
                      reached)
                : ""));
  }
  if (sentences.empty()) {
    return "";
  }
  std::sort(sentences.begin(), sentences.end());
  std::string text;
  for (const auto& [order, sentence] : sentences) {
    text += sentence + "; ";
  }
  return fmt::format(
      "{}best of {} trials looked at", text, confirmation.looked_at);
}

}  // namespace einforge::search
