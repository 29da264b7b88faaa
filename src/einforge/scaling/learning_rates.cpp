#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "einforge/scaling/runs.h"

namespace einforge::scaling {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Runs of one budget end within this share of each other's compute.
constexpr double kSameBudget = 0.05;

// NaN orders with nothing, which a map cannot have.
double ordered(double value) {
  return std::isnan(value) ? 0 : value;
}

using Model = std::tuple<std::string, std::string, std::string, double>;

Model model_of(const Run& run) {
  return {run.structure, run.model, run.settings, ordered(run.parameters)};
}

double end_of(const Run& run) {
  double end = 0;
  for (const Point& point : run.points) {
    end = std::max(end, point.compute);
  }
  return end;
}

// The lowest loss that was measured up to this compute.
double lowest_up_to(const Run& run, double compute) {
  double lowest = kInfinity;
  for (const Point& point : run.points) {
    if (point.compute <= compute && point.loss < lowest) {
      lowest = point.loss;
    }
  }
  return lowest;
}

using Seeds = std::vector<const Run*>;

// The runs of one model that were trained for the same compute, by rate.
struct Budget {
  double compute = 0;
  std::map<double, Seeds> rates;
};

// The mean over seeds of what they reached up to this compute.
double mean_loss(const Seeds& runs, double compute) {
  double sum = 0;
  for (const Run* run : runs) {
    sum += lowest_up_to(*run, compute);
  }
  return sum / static_cast<double>(runs.size());
}

std::vector<Budget> budgets_of(Seeds runs) {
  std::stable_sort(runs.begin(), runs.end(), [](const Run* a, const Run* b) {
    return end_of(*a) < end_of(*b);
  });
  std::vector<Budget> budgets;
  for (const Run* run : runs) {
    const double end = end_of(*run);
    if (budgets.empty() || end > (1 + kSameBudget) * budgets.back().compute) {
      budgets.push_back({end, {}});
    }
    budgets.back().rates[ordered(run->learning_rate)].push_back(run);
  }
  return budgets;
}

// The runs of one model, sorted out.
class Choice {
 public:
  explicit Choice(const Seeds& runs) {
    Seeds finished;
    for (const Run* run : runs) {
      if (has_diverged(*run)) {
        const auto [found, is_new] =
            diverged_at_.try_emplace(ordered(run->learning_rate), end_of(*run));
        found->second = std::min(found->second, end_of(*run));
      } else {
        finished.push_back(run);
      }
    }
    budgets_ = budgets_of(std::move(finished));
  }

  Seeds dropped() const {
    Seeds result;
    for (std::size_t b = 0; b < budgets_.size(); ++b) {
      const double best = best_rate(budgets_[b]);
      for (const auto& [rate, seeds] : budgets_[b].rates) {
        if (rate != best || is_beaten(rate, seeds, b)) {
          result.insert(result.end(), seeds.begin(), seeds.end());
        }
      }
    }
    return result;
  }

 private:
  double best_rate(const Budget& budget) const {
    double best = 0;
    std::pair<bool, double> lowest(true, kInfinity);
    for (const auto& [rate, seeds] : budget.rates) {
      const auto found = diverged_at_.find(rate);
      const std::pair<bool, double> key(
          found != diverged_at_.end() &&
              found->second <= (1 + kSameBudget) * budget.compute,
          mean_loss(seeds, kInfinity));
      if (&rate == &budget.rates.begin()->first || key < lowest) {
        lowest = key;
        best = rate;
      }
    }
    return best;
  }

  // Whether a longer run of another rate was better at the same compute.
  bool is_beaten(double rate, const Seeds& seeds, std::size_t budget) const {
    const double at = (1 + kSameBudget) * budgets_[budget].compute;
    const double loss = mean_loss(seeds, at);
    for (std::size_t b = budget + 1; b < budgets_.size(); ++b) {
      for (const auto& [other, others] : budgets_[b].rates) {
        if (other != rate && mean_loss(others, at) < loss) {
          return true;
        }
      }
    }
    return false;
  }

  std::vector<Budget> budgets_;
  // The least compute at which a run of a rate diverged.
  std::map<double, double> diverged_at_;
};

}  // namespace

bool has_diverged(const Run& run) {
  constexpr std::size_t kFewest = 8;  // evaluations that show it without a flag
  constexpr std::size_t kLast = 3;
  if (run.diverged || run.points.size() < kFewest) {
    return run.diverged;
  }
  std::vector<std::pair<double, double>> points;  // in the order of compute
  for (const Point& point : run.points) {
    points.emplace_back(point.compute, point.loss);
  }
  std::stable_sort(
      points.begin(), points.end(), [](const auto& a, const auto& b) {
        return a.first < b.first;
      });
  double lowest = kInfinity;
  for (auto last = points.end() - kLast; last != points.end(); ++last) {
    lowest = last->second < lowest ? last->second : lowest;
  }
  return lowest > points.front().second;
}

std::vector<Run> best_learning_rates(const std::vector<Run>& runs) {
  std::map<Model, Seeds> models;
  for (const Run& run : runs) {
    if (!run.model.empty()) {
      models[model_of(run)].push_back(&run);
    }
  }
  std::set<const Run*> dropped;
  for (const auto& [model, seeds] : models) {
    const Seeds worse = Choice(seeds).dropped();
    dropped.insert(worse.begin(), worse.end());
  }
  std::vector<Run> kept;
  for (const Run& run : runs) {
    if (!dropped.contains(&run)) {
      kept.push_back(run);
    }
  }
  return kept;
}

}  // namespace einforge::scaling
