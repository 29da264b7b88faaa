#include "einforge/scaling/headline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>

namespace einforge::scaling {
namespace {

// Of the losses compared, this share at most may lie on chords.
constexpr double kChords = 0.05;
// Of log loss, between runs, where too few of them tell.
constexpr double kNoise = 0.005;

struct Range {
  double from = 0;  // log losses, from above
  double to = 0;
};

// The losses that most structures share with the baseline, of ranges wider than
// `least`; of several the uppermost.
std::optional<Range> common_range(
    const std::vector<Range>& ranges, std::size_t baseline, double least) {
  std::vector<double> tops;
  for (const Range& range : ranges) {
    tops.push_back(std::min(range.from, ranges[baseline].from));
  }
  std::sort(tops.begin(), tops.end(), std::greater{});
  std::size_t most = 1;  // the baseline alone is nothing to rank
  std::optional<Range> best;
  for (const double top : tops) {
    std::vector<double> ends;
    for (const Range& range : ranges) {
      if (range.from >= top) {
        ends.push_back(std::max(range.to, ranges[baseline].to));
      }
    }
    // All that reach `top`, but for those that end too high.
    std::sort(ends.begin(), ends.end());
    while (!ends.empty() && top - ends.back() <= least) {
      ends.pop_back();
    }
    if (ends.size() > most) {
      most = ends.size();
      best = Range{top, ends.back()};
    }
  }
  return best;
}

void sort_for_display(std::vector<StructureAnalysis>& structures) {
  const auto key = [](const StructureAnalysis& s) {
    return std::tuple(
        s.rank.value_or(std::numeric_limits<int>::max()),
        -s.multiplier.value_or(0),
        s.best_loss);
  };
  std::stable_sort(
      structures.begin(), structures.end(), [&](const auto& a, const auto& b) {
        return key(a) < key(b);
      });
}

void pick_headline(Analysis& analysis) {
  const auto first = std::find_if(
      analysis.structures.begin(),
      analysis.structures.end(),
      [](const auto& s) { return s.rank == 1; });
  if (first == analysis.structures.end()) {
    analysis.headline_note = analysis.rank_note;
  } else if (first->structure == analysis.baseline) {
    analysis.headline_note = fmt::format(
        "no structure needs less than '{}' for the same loss",
        analysis.baseline);
  } else if (!first->multiplier_shown) {
    analysis.headline_note = fmt::format(
        "'{}' comes first, which was not shown: {}",
        first->structure,
        first->multiplier_note);
  } else if (!first->multiplier_ci95) {
    analysis.headline_note = fmt::format(
        "'{}' comes first, but its multiplier has no interval",
        first->structure);
  } else if (first->multiplier_ci95->low <= 1) {
    analysis.headline_note = fmt::format(
        "'{}' comes first, within noise: the interval of its multiplier "
        "includes 1",
        first->structure);
  } else {
    analysis.headline = first->structure;
  }
}

}  // namespace

std::string missing_proof(
    const Multiplier& multiplier,
    const Frontier& baseline,
    const FrontierCheck& baseline_check,
    const Frontier& structure,
    const FrontierCheck& structure_check) {
  if (multiplier.early) {
    return "early losses only: above where both are at their best";
  }
  const auto chords = [&](const Frontier& frontier,
                          const FrontierCheck& check) {
    return chord_share(frontier, check, multiplier.from, multiplier.to);
  };
  const double of_baseline = chords(baseline, baseline_check);
  const double of_structure = chords(structure, structure_check);
  if (std::max(of_baseline, of_structure) > kChords) {
    return fmt::format(
        "runs end before they touch: losses compared lie on a chord of {} "
        "frontier",
        of_baseline <= kChords    ? "its"
        : of_structure <= kChords ? "the baseline's"
                                  : "either");
  }
  for (const auto* check : {&baseline_check, &structure_check}) {
    if (check->late_touches == 0) {
      return fmt::format(
          "no run of {} hands over to a larger one in the last nine tenths of "
          "the compute: nothing shows which size is best",
          check == &baseline_check ? "the baseline" : "it");
    }
  }
  return "";
}

void rank_structures(
    Analysis& analysis,
    const Outcome& outcome,
    std::optional<std::size_t> baseline) {
  auto& structures = analysis.structures;
  const auto& frontiers = outcome.frontiers;
  if (!baseline) {
    analysis.rank_note =
        fmt::format("no run of '{}' to compare with", analysis.baseline);
  } else {
    std::vector<Range> ranges;
    for (std::size_t f = 0; f < frontiers.size(); ++f) {
      ranges.push_back(
          {outcome.checks[f].optimal_from, frontiers[f].vertices.back().y});
    }
    // Over less than the noise, noise decides.
    const double least = analysis.noise.value_or(kNoise);
    const auto range = common_range(ranges, *baseline, least);
    const auto narrow = common_range(ranges, *baseline, 0);
    if (structures.size() == 1) {
      analysis.rank_note = fmt::format(
          "no rank: there is nothing to compare '{}' with", analysis.baseline);
    } else if (!range && narrow) {
      analysis.rank_note = fmt::format(
          "no rank: the losses in common with '{}' where both are at their "
          "best, {:.5g} to {:.5g}, are within the noise of {:.2g}%",
          analysis.baseline,
          std::exp(narrow->from),
          std::exp(narrow->to),
          100 * least);
    } else if (!range) {
      analysis.rank_note = fmt::format(
          "no rank: no structure has a loss in common with '{}' where both are "
          "at their best",
          analysis.baseline);
    } else {
      analysis.rank_from = std::exp(range->from);
      analysis.rank_to = std::exp(range->to);
      std::vector<std::pair<double, std::size_t>> order;
      for (std::size_t f = 0; f < frontiers.size(); ++f) {
        if (ranges[f].from >= range->from && ranges[f].to <= range->to) {
          order.emplace_back(
              -mean_log_ratio(
                  frontiers[*baseline], frontiers[f], range->from, range->to),
              f);
        }
      }
      std::sort(order.begin(), order.end());
      for (std::size_t i = 0; i < order.size(); ++i) {
        structures[order[i].second].rank = static_cast<int>(i) + 1;
      }
      if (order.size() < structures.size()) {
        analysis.rank_note = fmt::format(
            "{} of {} structures are ranked, over losses that all of them "
            "reached, {:.4g} to {:.4g}",
            order.size(),
            structures.size(),
            *analysis.rank_from,
            *analysis.rank_to);
      }
    }
  }
  sort_for_display(structures);
  pick_headline(analysis);
}

}  // namespace einforge::scaling
