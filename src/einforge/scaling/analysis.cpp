#include "einforge/scaling/analysis.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/scaling/multiplier.h"
#include "einforge/scaling/tangent_fit.h"

namespace einforge::scaling {
namespace {

// With five runs a family can pay for a floor of its own and have two left to
// tell its noise by.
constexpr std::size_t kRunsForOwnFloor = 5;
constexpr int kFewestDegrees = 2;
// Resampling fewer runs gives next to no different samples.
constexpr std::size_t kRunsForResampling = 3;
constexpr int kLawPoints = 30;
// A law this flat is the fit's way of saying that there is none.
constexpr double kFlat = 1e-3;

using Shifts = std::vector<std::vector<double>>;

struct Grouped {
  std::vector<std::string> names;
  std::vector<std::vector<std::string>> run_names;
  std::vector<Family> families;
};

Grouped group(std::span<const Run> runs, Metric metric) {
  Grouped grouped;
  std::map<std::string, std::size_t> index;
  std::vector<std::vector<Curve>> curves;
  for (const Run& run : runs) {
    Curve curve = smooth(log_curve(run, metric));
    if (curve.x.empty()) {
      continue;
    }
    const auto [found, is_new] =
        index.try_emplace(run.structure, curves.size());
    if (is_new) {
      grouped.names.push_back(run.structure);
      grouped.run_names.emplace_back();
      curves.emplace_back();
    }
    curves[found->second].push_back(std::move(curve));
    grouped.run_names[found->second].push_back(run.name);
  }
  for (auto& family : curves) {
    grouped.families.emplace_back(std::move(family));
  }
  return grouped;
}

Shifts zero_shifts(std::span<const Family> families) {
  Shifts shifts;
  for (const Family& family : families) {
    shifts.emplace_back(family.curves.size(), 0.0);
  }
  return shifts;
}

// What one data set, real or replicated, says about each structure.
struct Outcome {
  std::vector<Frontier> frontiers;
  std::vector<TangentFit> fits;
  std::vector<std::optional<Multiplier>> multipliers;
};

Outcome evaluate(
    std::span<const Family> families,
    const Shifts& shifts,
    std::optional<std::size_t> baseline,
    const TangentOptions& options) {
  Outcome outcome;
  outcome.fits = fit_tangents(families, shifts, options);
  for (std::size_t f = 0; f < families.size(); ++f) {
    outcome.frontiers.push_back(families[f].cloud.frontier(shifts[f]));
  }
  for (std::size_t f = 0; f < families.size(); ++f) {
    outcome.multipliers.push_back(
        !baseline || f == *baseline
            ? std::nullopt
            : compute_multiplier(
                  outcome.frontiers[*baseline], outcome.frontiers[f]));
  }
  return outcome;
}

double sum_of_squares(std::span<const TangentFit> fits) {
  double sum = 0;
  for (const TangentFit& fit : fits) {
    for (const double residual : fit.residuals) {
      sum += residual * residual;
    }
  }
  return sum;
}

// Every run laid on its law (or left where it is, when it has none), then
// given new luck. The size of that luck is known only as well as `degrees`
// residuals tell: drawing it from its own distribution makes the intervals as
// wide as Student's t.
Shifts draw_shifts(
    std::span<const TangentFit> fits,
    double noise,
    int degrees,
    base::Random& random) {
  double chi_squared = 0;
  for (int i = 0; i < degrees; ++i) {
    chi_squared += std::pow(random.normal(), 2);
  }
  const double size = noise * std::sqrt(degrees / chi_squared);
  Shifts shifts;
  for (const TangentFit& fit : fits) {
    auto& family = shifts.emplace_back();
    for (const double residual : fit.residuals) {
      family.push_back(size * random.normal() - residual);
    }
  }
  return shifts;
}

std::vector<Family> resample(
    std::span<const Family> families, base::Random& random) {
  std::vector<Family> drawn;
  for (const Family& family : families) {
    std::vector<Curve> curves;
    for (std::size_t i = 0; i < family.curves.size(); ++i) {
      curves.push_back(family.curves[random.below(family.curves.size())]);
    }
    drawn.emplace_back(std::move(curves));
  }
  return drawn;
}

// The middle 95% of `values`, widened to hold the estimate. Absent when more
// than a tenth of the replicates gave no value.
std::optional<Interval> interval(
    std::vector<double> values, double estimate, int replicates) {
  if (values.empty() || static_cast<double>(values.size()) < 0.9 * replicates) {
    return std::nullopt;
  }
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double share) {
    const double at = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(at);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(
        values[below], values[above], at - static_cast<double>(below));
  };
  return Interval{
      std::min(quantile(0.025), estimate), std::max(quantile(0.975), estimate)};
}

void add_note(std::string& note, const std::string& more) {
  note += (note.empty() ? "" : "; ") + more;
}

class Analyser {
 public:
  Analyser(std::span<const Run> runs, const AnalysisOptions& options)
      : options_(options), grouped_(group(runs, options.metric)) {
    const auto found = std::find(
        grouped_.names.begin(), grouped_.names.end(), options.baseline);
    if (found != grouped_.names.end()) {
      baseline_ = static_cast<std::size_t>(found - grouped_.names.begin());
    }
  }

  Analysis run() {
    const Shifts none = zero_shifts(families());
    tangent_.shared_floor = false;
    observed_ = evaluate(families(), none, baseline_, tangent_);
    const auto too_few = [](const TangentFit& fit) {
      return fit.used_count < kRunsForOwnFloor;
    };
    if (std::any_of(observed_.fits.begin(), observed_.fits.end(), too_few)) {
      tangent_.shared_floor = true;
      observed_ = evaluate(families(), none, baseline_, tangent_);
    }
    degrees_ = degrees_of_freedom(observed_.fits, tangent_.shared_floor);

    Analysis analysis;
    analysis.metric = options_.metric;
    analysis.baseline = options_.baseline;
    analysis.shared_floor = tangent_.shared_floor;
    analysis.degrees_of_freedom = degrees_;
    for (std::size_t f = 0; f < families().size(); ++f) {
      analysis.structures.push_back(describe(f));
    }
    if (degrees_ >= kFewestDegrees) {
      noise_ = std::sqrt(sum_of_squares(observed_.fits) / degrees_);
      analysis.noise = noise_;
    }
    analysis.interval_method = bootstrap(analysis.structures);
    std::stable_sort(
        analysis.structures.begin(),
        analysis.structures.end(),
        [](const StructureAnalysis& a, const StructureAnalysis& b) {
          return std::pair(-a.multiplier.value_or(0), a.best_loss) <
                 std::pair(-b.multiplier.value_or(0), b.best_loss);
        });
    return analysis;
  }

 private:
  std::span<const Family> families() const { return grouped_.families; }

  StructureAnalysis describe(std::size_t f) const {
    StructureAnalysis result;
    result.structure = grouped_.names[f];
    result.runs = families()[f].curves.size();
    const Frontier& frontier = observed_.frontiers[f];
    for (const auto& vertex : frontier.vertices) {
      result.frontier.push_back(
          {std::exp(vertex.x),
           std::exp(vertex.y),
           grouped_.run_names[f][vertex.run]});
    }
    result.best_loss = std::exp(frontier.vertices.back().y);

    const TangentFit& fit = observed_.fits[f];
    result.law_runs = fit.used_count;
    if (fit.law && fit.law->exponent < kFlat) {
      result.law_note = "its runs do not fall together as compute grows";
    } else if (fit.law) {
      result.law = fit.law;
      for (const double x : law_grid(f)) {
        result.law_points.push_back(
            {std::exp(x), std::exp(fit.law->log_loss(x)), std::nullopt});
      }
      if (fit.used_count == 2) {
        result.law_note = "two runs only: exact through both";
      }
    } else {
      result.law_note = "fewer than two runs lie on the frontier";
    }

    if (!baseline_) {
      result.multiplier_note =
          fmt::format("no run of '{}' to compare with", options_.baseline);
    } else if (f == *baseline_) {
      result.multiplier = 1;
      result.multiplier_ci95 = Interval{1, 1};
      result.multiplier_note = "the baseline";
      result.loss_from = std::exp(frontier.vertices.front().y);
      result.loss_to = result.best_loss;
    } else if (const auto& found = observed_.multipliers[f]) {
      result.multiplier = std::exp(found->log_value);
      result.loss_from = std::exp(found->from);
      result.loss_to = std::exp(found->to);
      if (found->early) {
        result.multiplier_note = fmt::format(
            "early losses only, {:.3g} to {:.3g}: above where both are at "
            "their best",
            result.loss_from,
            result.loss_to);
      }
    } else {
      result.multiplier_note = fmt::format(
          "no loss that both it and '{}' reached", options_.baseline);
    }
    return result;
  }

  // The law speaks of compute-optimal training, which begins where the first
  // run hands over.
  std::vector<double> law_grid(std::size_t f) const {
    const Frontier& frontier = observed_.frontiers[f];
    const auto& vertices = frontier.vertices;
    const std::size_t first =
        frontier.run_count() > 1 ? frontier.first_touch : 0;
    std::vector<double> grid;
    for (int i = 0; i < kLawPoints; ++i) {
      grid.push_back(std::lerp(
          vertices[first].x,
          vertices.back().x,
          static_cast<double>(i) / (kLawPoints - 1)));
    }
    return grid;
  }

  // Fills in the intervals and says how they were made.
  std::string bootstrap(std::vector<StructureAnalysis>& results) {
    if (options_.bootstrap <= 0) {
      return "none";
    }
    base::Random random(options_.seed);
    const bool from_noise = degrees_ >= kFewestDegrees;
    std::vector<Outcome> replicates;
    TangentOptions refit = tangent_;
    refit.rounds = 4;
    refit.start = observed_.fits;
    for (int i = 0; i < options_.bootstrap; ++i) {
      if (from_noise) {
        replicates.push_back(evaluate(
            families(),
            draw_shifts(observed_.fits, noise_, degrees_, random),
            baseline_,
            refit));
      } else {
        const std::vector<Family> drawn = resample(families(), random);
        replicates.push_back(
            evaluate(drawn, zero_shifts(drawn), baseline_, tangent_));
      }
    }
    for (std::size_t f = 0; f < results.size(); ++f) {
      if (from_noise) {
        add_law_intervals(results[f], f, replicates);
      } else if (results[f].law) {
        results[f].law_note = "too few runs to tell how sure the law is";
      }
      add_multiplier_interval(results[f], f, replicates, from_noise);
    }
    return from_noise ? "run noise" : "resampled runs";
  }

  void add_law_intervals(
      StructureAnalysis& result,
      std::size_t f,
      const std::vector<Outcome>& replicates) const {
    if (!result.law) {
      return;
    }
    std::vector<double> floors;
    std::vector<double> exponents;
    std::vector<std::vector<double>> losses(result.law_points.size());
    for (const Outcome& replicate : replicates) {
      if (const auto& law = replicate.fits[f].law) {
        floors.push_back(law->floor);
        exponents.push_back(law->exponent);
        for (std::size_t i = 0; i < losses.size(); ++i) {
          losses[i].push_back(
              std::exp(law->log_loss(std::log(result.law_points[i].compute))));
        }
      }
    }
    const int count = options_.bootstrap;
    result.floor_ci95 = interval(floors, result.law->floor, count);
    result.exponent_ci95 = interval(exponents, result.law->exponent, count);
    for (std::size_t i = 0; i < losses.size(); ++i) {
      LawPoint& point = result.law_points[i];
      point.ci95 = interval(losses[i], point.loss, count);
    }
  }

  void add_multiplier_interval(
      StructureAnalysis& result,
      std::size_t f,
      const std::vector<Outcome>& replicates,
      bool from_noise) const {
    if (!result.multiplier || f == *baseline_) {
      return;
    }
    if (!from_noise &&
        std::min(
            families()[f].curves.size(), families()[*baseline_].curves.size()) <
            kRunsForResampling) {
      add_note(
          result.multiplier_note,
          fmt::format(
              "no interval: fewer than {} runs of it or of '{}'",
              kRunsForResampling,
              options_.baseline));
      return;
    }
    std::vector<double> values;
    for (const Outcome& replicate : replicates) {
      if (const auto& multiplier = replicate.multipliers[f]) {
        values.push_back(std::exp(multiplier->log_value));
      }
    }
    result.multiplier_ci95 =
        interval(std::move(values), *result.multiplier, options_.bootstrap);
    if (!result.multiplier_ci95) {
      add_note(
          result.multiplier_note,
          "no interval: too often no loss in common under the noise");
    }
  }

  AnalysisOptions options_;
  Grouped grouped_;
  std::optional<std::size_t> baseline_;
  TangentOptions tangent_;
  Outcome observed_;
  int degrees_ = 0;
  double noise_ = 0;
};

}  // namespace

std::string to_string(Touch touch) {
  switch (touch) {
    case Touch::kTouches:
      return "touches";
    case Touch::kEndsBefore:
      return "ends before";
    case Touch::kBeginsAfter:
      return "begins after";
    case Touch::kAbove:
      return "above";
    case Touch::kUnknown:
      return "unknown";
  }
  return "unknown";
}

Analysis analyse(std::span<const Run> runs, const AnalysisOptions& options) {
  return Analyser(runs, options).run();
}

}  // namespace einforge::scaling
