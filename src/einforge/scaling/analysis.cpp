#include "einforge/scaling/analysis.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "einforge/scaling/bootstrap.h"
#include "einforge/scaling/evaluation.h"
#include "einforge/scaling/headline.h"

namespace einforge::scaling {
namespace {

// With five runs a family can pay for a floor of its own and have two left to
// tell its noise by.
constexpr std::size_t kRunsForOwnFloor = 5;
constexpr int kFewestDegrees = 2;
// Resampling fewer runs gives next to no different samples.
constexpr std::size_t kRunsForResampling = 3;
constexpr int kLawPoints = 30;

void add_note(std::string& note, const std::string& more) {
  note += (note.empty() ? "" : "; ") + more;
}

// The run's own name, with its model where the structure has two of that name.
std::vector<std::string> display_names(const std::vector<const Run*>& runs) {
  std::map<std::string, int> counts;
  for (const Run* run : runs) {
    ++counts[run->name];
  }
  std::vector<std::string> names;
  for (const Run* run : runs) {
    names.push_back(
        counts[run->name] > 1 && !run->model.empty()
            ? fmt::format("{}/{}", run->model, run->name)
            : run->name);
  }
  return names;
}

std::optional<double> tokens_per_parameter(const Run& run) {
  const double ratio = run.points.back().tokens / run.parameters;
  return std::isfinite(ratio) && ratio > 0 ? std::optional(ratio)
                                           : std::nullopt;
}

double lowest(const Curve& curve) {
  return std::exp(*std::min_element(curve.y.begin(), curve.y.end()));
}

Touch touch_of(
    std::size_t run, const FrontierCheck& check, const TangentFit& fit) {
  switch (check.runs[run]) {
    case FrontierCheck::Run::kTouches:
      return Touch::kTouches;
    case FrontierCheck::Run::kEndsBefore:
      return Touch::kEndsBefore;
    case FrontierCheck::Run::kBeginsAfter:
      return Touch::kBeginsAfter;
    case FrontierCheck::Run::kUnknown:
      break;
  }
  if (!fit.law) {
    return Touch::kUnknown;
  }
  switch (fit.nearest[run]) {
    case Nearest::kFirst:
      return Touch::kBeginsAfter;
    case Nearest::kLast:
      return Touch::kEndsBefore;
    case Nearest::kInside:
      break;
  }
  return fit.used[run] ? Touch::kTouches : Touch::kAbove;
}

// Whether half of the runs that the law rests on, or more, do not show where
// they touch it.
bool ends_early(const TangentFit& fit) {
  std::size_t early = 0;
  for (std::size_t run = 0; run < fit.used.size(); ++run) {
    early += fit.used[run] && fit.nearest[run] != Nearest::kInside ? 1 : 0;
  }
  return 2 * early >= fit.used_count;
}

// The same by what the frontier shows of them.
bool ends_early(const StructureAnalysis& result, const TangentFit& fit) {
  std::size_t early = 0;
  for (std::size_t run = 0; run < fit.used.size(); ++run) {
    const Touch touch = result.run_analyses[run].touch;
    early += fit.used[run] && touch == Touch::kEndsBefore ? 1 : 0;
  }
  return 2 * early >= fit.used_count;
}

// Whether the law is none: where it lies depends on which round came last, and
// what it leaves over is no noise.
bool is_arbitrary(const TangentFit& fit) {
  return fit.law && !fit.settled && ends_early(fit);
}

// One evaluation a run.
bool is_table(const Family& family) {
  return std::all_of(
      family.measured.begin(), family.measured.end(), [](const Curve& curve) {
        return curve.size() == 1;
      });
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
    options_.bootstrap = std::min(options_.bootstrap, affordable_replicates());
  }

  Analysis run() {
    observe();
    Analysis analysis;
    analysis.metric = options_.metric;
    analysis.baseline = options_.baseline;
    analysis.shared_floor = tangent_.shared_floor;
    analysis.degrees_of_freedom = degrees_;
    analysis.replicates = std::max(0, options_.bootstrap);
    for (std::size_t f = 0; f < families().size(); ++f) {
      analysis.structures.push_back(describe(f));
    }
    if (noise_) {
      analysis.noise = noise_->size;
    }
    analysis.interval_method = add_intervals(analysis.structures);
    rank_structures(analysis, observed_, baseline_);
    return analysis;
  }

 private:
  // A replicate costs as much as there are runs. Of so many runs the ends of an
  // interval are known well enough with fewer.
  int affordable_replicates() const {
    constexpr std::size_t kRunsInAll = 400'000;
    constexpr std::size_t kFewest = 200;
    std::size_t runs = 1;
    for (const Family& family : families()) {
      runs += family.curves.size();
    }
    return static_cast<int>(std::max(kFewest, kRunsInAll / runs));
  }

  std::span<const Family> families() const { return grouped_.families; }

  void observe() {
    envelopes_.resize(families().size());
    skip_.assign(families().size(), 0);
    in_parallel(
        static_cast<int>(families().size()), options_.threads, [&](int f) {
          const auto i = static_cast<std::size_t>(f);
          if (grouped_.sparse[i] != 0) {
            envelopes_[i] = fit_envelope(families()[i].measured);
            // A table of single evaluations without an envelope has them all
            // on the frontier; that few of a short curve make no law.
            skip_[i] = envelopes_[i] || !is_table(families()[i]) ? 1 : 0;
          }
        });
    tangent_.skip = skip_;
    observed_ = compare(families(), zero_shifts(families()), baseline_);
    arbitrary_.assign(families().size(), false);
    while (fit_laws()) {
    }
    degrees_ = degrees_of_freedom(observed_.fits, tangent_.shared_floor);
    if (degrees_ >= kFewestDegrees) {
      double sum = 0;
      for (const TangentFit& fit : observed_.fits) {
        for (const double residual : fit.residuals) {
          sum += residual * residual;
        }
      }
      noise_ = RunNoise{std::sqrt(sum / degrees_), degrees_};
    }
  }

  // Fits all laws; drops those that are none, and returns whether there were
  // any. The others then have to be fitted again: they shared their floor.
  bool fit_laws() {
    const Shifts none = zero_shifts(families());
    tangent_.shared_floor = false;
    observed_.fits = fit_tangents(families(), none, tangent_);
    const auto too_few = [](const TangentFit& fit) {
      return fit.law && fit.used_count < kRunsForOwnFloor;
    };
    if (std::any_of(observed_.fits.begin(), observed_.fits.end(), too_few)) {
      tangent_.shared_floor = true;
      observed_.fits = fit_tangents(families(), none, tangent_);
    }
    bool found = false;
    for (std::size_t f = 0; f < families().size(); ++f) {
      if (is_arbitrary(observed_.fits[f])) {
        arbitrary_[f] = true;
        skip_[f] = 1;
        found = true;
      }
    }
    return found;
  }

  StructureAnalysis describe(std::size_t f) const {
    StructureAnalysis result;
    const Family& family = families()[f];
    const Frontier& frontier = observed_.frontiers[f];
    const std::vector<std::string> names = display_names(grouped_.runs[f]);
    result.structure = grouped_.names[f];
    result.runs = family.curves.size();
    result.diverged_runs = grouped_.diverged[f];
    for (std::size_t i = 0; i < frontier.vertices.size(); ++i) {
      const auto& vertex = frontier.vertices[i];
      result.frontier.push_back(
          {std::exp(vertex.x),
           std::exp(vertex.y),
           names[vertex.run],
           observed_.checks[f].chord[i]});
    }
    result.best_loss = INFINITY;
    for (std::size_t run = 0; run < family.measured.size(); ++run) {
      const Curve& curve = family.measured[run];
      const double slope = end_slope(curve);
      result.run_analyses.push_back(
          {names[run],
           grouped_.runs[f][run]->model,
           curve.size(),
           std::exp(curve.x.back()),
           lowest(curve),
           tokens_per_parameter(*grouped_.runs[f][run]),
           std::isfinite(slope) ? std::optional(slope) : std::nullopt,
           curve.size() == 1
               ? Touch::kUnknown
               : touch_of(run, observed_.checks[f], observed_.fits[f])});
      result.best_loss = std::min(result.best_loss, lowest(curve));
    }
    add_law(result, f);
    if (!result.law) {
      for (RunAnalysis& run : result.run_analyses) {
        run.touch = Touch::kUnknown;  // what is not there
      }
    }
    add_multiplier(result, f);
    return result;
  }

  void add_law(StructureAnalysis& result, std::size_t f) const {
    const TangentFit& fit = observed_.fits[f];
    std::optional<PowerLaw> law = fit.law;
    result.law_runs = fit.used_count;
    if (envelopes_[f]) {
      law = envelopes_[f]->law;
      result.law_runs = result.runs;
      result.law_note = fmt::format(
          "few evaluations a run: one model of all of them; noise {:.2g}% of "
          "an evaluation",
          100 * envelopes_[f]->noise);
    }
    if (!law) {
      result.law_note =
          arbitrary_[f]        ? "no law: its runs end before they show one"
          : skip_[f] != 0      ? "no law: too few evaluations"
          : fit.used_count < 3 ? "no law: fewer than three runs near the "
                                 "frontier"
                               : "its runs do not fall together as compute "
                                 "grows";
    } else {
      result.law = law;
      for (const double x : law_grid(f)) {
        result.law_points.push_back(
            {std::exp(x), std::exp(law->log_loss(x)), std::nullopt});
      }
    }
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

  void add_multiplier(StructureAnalysis& result, std::size_t f) const {
    const Frontier& frontier = observed_.frontiers[f];
    if (!baseline_) {
      result.multiplier_note =
          fmt::format("no run of '{}' to compare with", options_.baseline);
    } else if (f == *baseline_) {
      result.multiplier = 1;
      result.multiplier_ci95 = Interval{1, 1};
      result.multiplier_note = "the baseline";
      result.loss_from = std::exp(frontier.vertices.front().y);
      result.loss_to = std::exp(frontier.vertices.back().y);
    } else if (const auto& found = observed_.multipliers[f]) {
      result.multiplier = std::exp(found->log_value);
      result.loss_from = std::exp(found->from);
      result.loss_to = std::exp(found->to);
      result.multiplier_note = missing_proof(
          *found,
          observed_.frontiers[*baseline_],
          observed_.checks[*baseline_],
          frontier,
          observed_.checks[f]);
      result.multiplier_shown = result.multiplier_note.empty();
    } else {
      result.multiplier_note = fmt::format(
          "no loss that both it and '{}' reached", options_.baseline);
    }
    if (result.diverged_runs > 0) {
      add_note(
          result.multiplier_note,
          fmt::format("{} diverged, left out", result.diverged_runs));
    }
  }

  // Whether resampling its runs says anything.
  bool can_resample(std::size_t f) const {
    return families()[f].curves.size() >= kRunsForResampling;
  }

  // Whether a replicate gives structure `f` other multipliers than the data.
  bool has_multiplier_interval(std::size_t f) const {
    const auto varies = [&](std::size_t i) {
      return (noise_ && skip_[i] == 0) || can_resample(i);
    };
    return observed_.multipliers[f] && varies(f) && varies(*baseline_);
  }

  // Fills in the intervals and says how they were made.
  std::string add_intervals(std::vector<StructureAnalysis>& results) const {
    if (options_.bootstrap <= 0) {
      return "none";
    }
    add_jackknife_intervals(results);
    bool worthwhile = noise_.has_value();
    for (std::size_t f = 0; f < results.size(); ++f) {
      worthwhile = worthwhile || has_multiplier_interval(f);
    }
    std::vector<Replicate> replicates;
    if (worthwhile) {
      replicates = bootstrap(
          families(),
          baseline_,
          observed_.fits,
          noise_,
          tangent_,
          {options_.bootstrap,
           options_.seed,
           options_.threads,
           options_.progress});
    }
    for (std::size_t f = 0; f < results.size(); ++f) {
      if (observed_.fits[f].law && results[f].law) {
        if (ends_early(observed_.fits[f]) ||
            ends_early(results[f], observed_.fits[f])) {
          results[f].law_note =
              "no interval: half of its runs or more end before they touch it";
        } else if (noise_) {
          add_law_intervals(results[f], f, replicates);
        } else {
          results[f].law_note = "too few runs to tell how sure the law is";
        }
      }
      add_multiplier_interval(results[f], f, replicates);
    }
    return noise_ ? "run noise" : worthwhile ? "resampled runs" : "none";
  }

  void add_jackknife_intervals(std::vector<StructureAnalysis>& results) const {
    struct Task {
      std::size_t family, group;
      std::optional<EnvelopeFit> fit;
    };
    std::vector<Task> tasks;
    std::vector<std::vector<std::size_t>> groups(results.size());
    for (std::size_t f = 0; f < results.size(); ++f) {
      if (envelopes_[f] && results[f].law) {
        groups[f] = jackknife_groups(families()[f].measured);
        const std::size_t last =
            *std::max_element(groups[f].begin(), groups[f].end());
        for (std::size_t group = 0; group <= last; ++group) {
          tasks.push_back({f, group, std::nullopt});
        }
      }
    }
    in_parallel(
        static_cast<int>(tasks.size()), options_.threads, [&](int index) {
          Task& task = tasks[static_cast<std::size_t>(index)];
          std::vector<Curve> rest;
          const auto& measured = families()[task.family].measured;
          for (std::size_t i = 0; i < measured.size(); ++i) {
            if (groups[task.family][i] != task.group) {
              rest.push_back(measured[i]);
            }
          }
          task.fit = fit_envelope(rest, envelopes_[task.family]);
        });
    for (std::size_t f = 0; f < results.size(); ++f) {
      std::vector<PowerLaw> laws;
      bool complete = true;
      for (const Task& task : tasks) {
        if (task.family == f) {
          complete = complete && task.fit;
          laws.push_back(task.fit ? task.fit->law : PowerLaw{});
        }
      }
      if (laws.empty()) {
        continue;
      }
      if (!complete) {
        add_note(results[f].law_note, "too few to tell how sure the law is");
        continue;
      }
      add_jackknife_interval(results[f], laws);
    }
  }

  static void add_jackknife_interval(
      StructureAnalysis& result, const std::vector<PowerLaw>& laws) {
    const auto of = [&](double estimate, auto&& value) {
      std::vector<double> values;
      for (const PowerLaw& law : laws) {
        values.push_back(value(law));
      }
      return jackknife_interval(estimate, values);
    };
    const Interval floor =
        of(result.law->floor, [](const PowerLaw& law) { return law.floor; });
    result.floor_ci95 = Interval{std::max(floor.low, 0.0), floor.high};
    const Interval exponent =
        of(std::log(result.law->exponent),
           [](const PowerLaw& law) { return std::log(law.exponent); });
    result.exponent_ci95 =
        Interval{std::exp(exponent.low), std::exp(exponent.high)};
    for (LawPoint& point : result.law_points) {
      const double x = std::log(point.compute);
      const Interval loss = of(std::log(point.loss), [&](const PowerLaw& law) {
        return law.log_loss(x);
      });
      point.ci95 = Interval{std::exp(loss.low), std::exp(loss.high)};
    }
    add_note(
        result.law_note,
        fmt::format("intervals by a jackknife of {} groups", laws.size()));
  }

  void add_law_intervals(
      StructureAnalysis& result,
      std::size_t f,
      const std::vector<Replicate>& replicates) const {
    std::vector<double> floors;
    std::vector<double> exponents;
    std::vector<std::vector<double>> losses(result.law_points.size());
    for (const Replicate& replicate : replicates) {
      if (const auto& law = replicate.laws[f]) {
        floors.push_back(law->floor);
        exponents.push_back(law->exponent);
        for (std::size_t i = 0; i < losses.size(); ++i) {
          losses[i].push_back(
              std::exp(law->log_loss(std::log(result.law_points[i].compute))));
        }
      }
    }
    const int count = options_.bootstrap;
    if (const auto found = spread(floors, result.law->floor, count)) {
      result.floor_ci95 = found->ci95;
      result.floor_bias = found->bias;
    }
    if (const auto found = spread(exponents, result.law->exponent, count)) {
      result.exponent_ci95 = found->ci95;
      result.exponent_bias = found->bias;
    }
    for (std::size_t i = 0; i < losses.size(); ++i) {
      LawPoint& point = result.law_points[i];
      if (const auto found = spread(losses[i], point.loss, count)) {
        point.ci95 = found->ci95;
      }
    }
  }

  void add_multiplier_interval(
      StructureAnalysis& result,
      std::size_t f,
      const std::vector<Replicate>& replicates) const {
    if (!result.multiplier || f == *baseline_) {
      return;
    }
    if (!has_multiplier_interval(f)) {
      add_note(
          result.multiplier_note,
          fmt::format(
              "no interval: fewer than {} runs of it or of '{}'",
              kRunsForResampling,
              options_.baseline));
      return;
    }
    std::vector<double> values;
    for (const Replicate& replicate : replicates) {
      if (const auto& log_value = replicate.log_multipliers[f]) {
        values.push_back(std::exp(*log_value));
      }
    }
    const auto found =
        spread(std::move(values), *result.multiplier, options_.bootstrap);
    if (found) {
      result.multiplier_ci95 = found->ci95;
      result.multiplier_bias = 1 + found->bias / *result.multiplier;
    } else {
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
  std::vector<std::optional<EnvelopeFit>> envelopes_;
  std::vector<char> skip_;       // families that tangents do not fit
  std::vector<bool> arbitrary_;  // of these, those whose runs show no law
  std::optional<RunNoise> noise_;
  int degrees_ = 0;
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
