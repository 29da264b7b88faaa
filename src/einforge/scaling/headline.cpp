#include "einforge/scaling/headline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace einforge::scaling {
namespace {

// Of the losses compared, this share at most may lie on chords.
constexpr double kChords = 0.05;

struct Range {
  double from = 0;  // log losses, from above
  double to = 0;
};

// The losses that most structures share with the baseline: the deepest level of
// the pile of their ranges.
std::optional<Range> common_range(
    const std::vector<std::optional<Range>>& ranges, std::size_t baseline) {
  if (!ranges[baseline]) {
    return std::nullopt;
  }
  std::vector<std::pair<double, int>> ends;  // from above: from -> +1, to -> -1
  for (const auto& range : ranges) {
    if (range) {
      ends.emplace_back(std::min(range->from, ranges[baseline]->from), +1);
      ends.emplace_back(range->to, -1);
    }
  }
  std::sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) {
    return std::pair(-a.first, -a.second) < std::pair(-b.first, -b.second);
  });
  int depth = 0;
  int most = 1;  // the baseline alone is nothing to rank
  std::optional<Range> best;
  for (std::size_t i = 0; i + 1 < ends.size(); ++i) {
    depth += ends[i].second;
    const Range range{ends[i].first, ends[i + 1].first};
    if (depth > most && range.from > range.to &&
        range.to >= ranges[baseline]->to) {
      most = depth;
      best = range;
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
    std::vector<std::optional<Range>> ranges;
    for (std::size_t f = 0; f < frontiers.size(); ++f) {
      ranges.emplace_back(Range{
          outcome.checks[f].optimal_from, frontiers[f].vertices.back().y});
    }
    const auto range = common_range(ranges, *baseline);
    if (!range) {
      analysis.rank_note = fmt::format(
          "no rank: no structure has a loss in common with '{}' where both are "
          "at their best",
          analysis.baseline);
    } else {
      analysis.rank_from = std::exp(range->from);
      analysis.rank_to = std::exp(range->to);
      std::vector<std::pair<double, std::size_t>> order;
      for (std::size_t f = 0; f < frontiers.size(); ++f) {
        if (ranges[f]->from >= range->from && ranges[f]->to <= range->to) {
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
