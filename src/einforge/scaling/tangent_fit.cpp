#include "einforge/scaling/tangent_fit.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace einforge::scaling {
namespace {

constexpr std::size_t kEnoughTouching = 4;
constexpr std::size_t kFewestRuns = 3;
constexpr std::size_t kPointsForFit = 200;  // of a curve
// Laws this flat or steep are the fit's way of saying that there is none.
constexpr double kFlattest = 1e-3;
constexpr double kSteepest = 5;
// A law that a round still moves by this share of itself does not settle.
constexpr double kUnsettled = 0.1;
// In standard deviations of the run-to-run noise.
constexpr double kNearEnough = 3;
constexpr double kTooFar = 4;

// Where one run lies nearest to a law.
struct Touch {
  double gap = 0;  // log loss - law, mean over the region
  double x = 0;    // likewise
  Nearest nearest = Nearest::kInside;
};

// The region: the points whose gap does not differ from the smallest by more
// than the noise of a point, all of them for a run that follows the law.
Touch find_touch(const Curve& curve, double shift, const PowerLaw& law) {
  const std::size_t n = curve.size();
  std::vector<double> gaps(n);
  for (std::size_t i = 0; i < n; ++i) {
    gaps[i] = curve.y[i] + shift - law.log_loss(curve.x[i]);
  }
  const auto nearest = static_cast<std::size_t>(
      std::min_element(gaps.begin(), gaps.end()) - gaps.begin());
  const double most = gaps[nearest] + 2 * curve.error_at(nearest);
  Touch touch;
  std::size_t count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (gaps[i] <= most) {
      touch.gap += gaps[i];
      touch.x += curve.x[i];
      ++count;
    }
  }
  touch.gap /= static_cast<double>(count);
  touch.x /= static_cast<double>(count);
  if (n > 2 && 2 * count < n) {
    touch.nearest = nearest == 0       ? Nearest::kFirst
                    : nearest + 1 == n ? Nearest::kLast
                                       : Nearest::kInside;
  }
  return touch;
}

std::vector<bool> runs_of(const Frontier& frontier) {
  std::vector<bool> on(0);
  for (std::size_t i = frontier.first_touch; i <= frontier.last_touch; ++i) {
    const std::size_t run = frontier.vertices[i].run;
    on.resize(std::max(on.size(), run + 1));
    on[run] = true;
  }
  return on;
}

// The state of one family between rounds.
struct State {
  const Family* family = nullptr;
  std::span<const double> shifts;
  std::vector<bool> on_frontier;
  PowerLaw law;
  double spread = 0;  // standard deviation of the residuals
  bool fitted = false;
  double moved = 0;  // the law by the last round, a share of itself
  std::vector<Touch> touches;
  std::vector<bool> used;
  std::size_t used_count = 0;
};

void choose_runs(State& state, std::size_t parameters) {
  const auto& curves = state.family->curves;
  for (std::size_t run = 0; run < curves.size(); ++run) {
    state.touches[run] = find_touch(curves[run], state.shifts[run], state.law);
  }
  for (const bool take_edges : {false, true}) {
    state.used_count = 0;
    for (std::size_t run = 0; run < curves.size(); ++run) {
      const Touch& touch = state.touches[run];
      state.used[run] =
          touch.nearest != Nearest::kInside
              ? touch.gap < -kNearEnough * state.spread ||
                    (take_edges && (state.on_frontier[run] ||
                                    touch.gap < kNearEnough * state.spread))
              : state.on_frontier[run] || touch.gap <= kTooFar * state.spread;
      state.used_count += state.used[run] ? 1 : 0;
    }
    if (state.used_count >= kEnoughTouching) {
      break;
    }
  }
  if (state.used_count > parameters) {
    double sum = 0;
    for (std::size_t run = 0; run < curves.size(); ++run) {
      sum += state.used[run] ? std::pow(state.touches[run].gap, 2) : 0.0;
    }
    state.spread =
        std::sqrt(sum / static_cast<double>(state.used_count - parameters));
  }
}

// A point a run: where it touches, its mean gap above the law.
Sample sample_of(const State& state) {
  Sample sample;
  for (std::size_t run = 0; run < state.used.size(); ++run) {
    if (state.used[run]) {
      const Touch& touch = state.touches[run];
      sample.x.push_back(touch.x);
      sample.y.push_back(state.law.log_loss(touch.x) + touch.gap);
      sample.weights.push_back(1);
    }
  }
  return sample;
}

// A first law: through the frontier, evenly in log compute, so that it does
// not depend on how often a run was evaluated.
Sample frontier_sample(const Frontier& frontier) {
  constexpr int kPoints = 40;
  std::size_t first = frontier.first_touch;
  std::size_t last = frontier.last_touch;
  if (last < first + 2) {
    first = 0;
    last = frontier.vertices.size() - 1;
  }
  const auto& vertices = frontier.vertices;
  Sample sample;
  std::size_t left = first;
  for (int i = 0; i < kPoints; ++i) {
    const double x = std::lerp(
        vertices[first].x, vertices[last].x, static_cast<double>(i) / kPoints);
    while (left + 1 < last && vertices[left + 1].x < x) {
      ++left;
    }
    const auto& a = vertices[left];
    const auto& b = vertices[std::min(left + 1, last)];
    sample.x.push_back(x);
    sample.y.push_back(
        b.x > a.x ? std::lerp(a.y, b.y, (x - a.x) / (b.x - a.x)) : a.y);
    sample.weights.push_back(1);
  }
  return sample;
}

double largest_gap(const State& state) {
  double largest = 0;
  for (std::size_t run = 0; run < state.on_frontier.size(); ++run) {
    if (state.on_frontier[run]) {
      largest = std::max(
          largest,
          std::abs(find_touch(
                       state.family->curves[run], state.shifts[run], state.law)
                       .gap));
    }
  }
  return largest;
}

// Fits the states that have enough runs, together; returns whether any law
// moved.
bool refit(std::vector<State*> states, double tolerance) {
  std::erase_if(states, [](const State* state) {
    return state->used_count < kFewestRuns;
  });
  if (states.empty()) {
    return false;
  }
  std::vector<Sample> samples;
  FitOptions options;
  options.start.emplace();
  for (State* state : states) {
    for (std::size_t run = 0; run < state->shifts.size(); ++run) {
      options.lowest = std::min(
          options.lowest, state->family->lowest[run] + state->shifts[run]);
    }
    samples.push_back(sample_of(*state));
    options.start->push_back(state->law);
    state->fitted = true;
  }
  const std::vector<PowerLaw> laws = fit_power_laws(samples, options);
  bool moved = false;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const PowerLaw& old = states[i]->law;
    const double exponent = std::abs(old.exponent - laws[i].exponent);
    const double floor = std::abs(old.floor - laws[i].floor);
    moved |= exponent > tolerance || floor > tolerance * old.floor;
    states[i]->moved = std::max(
        exponent / std::max(old.exponent, laws[i].exponent),
        floor / std::exp(options.lowest));
    states[i]->law = laws[i];
  }
  return moved;
}

TangentFit to_fit(const State& state) {
  TangentFit fit;
  fit.residuals.assign(state.used.size(), 0);
  fit.used.assign(state.used.size(), false);
  fit.nearest.assign(state.used.size(), Nearest::kInside);
  fit.used_count = state.used_count;
  if (!state.fitted || state.law.exponent < kFlattest ||
      state.law.exponent > kSteepest) {
    return fit;
  }
  fit.law = state.law;
  fit.settled = state.moved < kUnsettled;
  fit.used = state.used;
  for (std::size_t run = 0; run < state.used.size(); ++run) {
    const Touch touch =
        find_touch(state.family->curves[run], state.shifts[run], state.law);
    fit.nearest[run] = touch.nearest;
    fit.residuals[run] = state.used[run] ? touch.gap : 0;
  }
  return fit;
}

std::vector<Curve> all_smoothed(std::span<const Curve> measured) {
  std::vector<Curve> curves;
  for (const Curve& curve : measured) {
    curves.push_back(smooth(curve));
  }
  return curves;
}

}  // namespace

Family::Family(std::vector<Curve> measured_in)
    : measured(std::move(measured_in)), cloud(all_smoothed(measured)) {
  for (const Curve& curve : measured) {
    curves.push_back(thin(smooth(curve), kPointsForFit));
    lowest.push_back(
        *std::min_element(curves.back().y.begin(), curves.back().y.end()));
  }
}

std::vector<TangentFit> fit_tangents(
    std::span<const Family> families,
    std::span<const std::vector<double>> shifts,
    const TangentOptions& options) {
  std::vector<State> states;
  for (std::size_t f = 0; f < families.size(); ++f) {
    const Family& family = families[f];
    State state;
    state.family = &family;
    state.shifts = shifts[f];
    const std::size_t runs = family.curves.size();
    state.touches.resize(runs);
    state.used.assign(runs, false);
    if ((!options.skip.empty() && options.skip[f] != 0) || runs < kFewestRuns) {
      states.push_back(std::move(state));
      continue;
    }
    const Frontier frontier = family.cloud.frontier(shifts[f]);
    state.on_frontier = runs_of(frontier);
    state.on_frontier.resize(runs);
    if (!options.start.empty() && options.start[f].law) {
      state.law = *options.start[f].law;
    } else {
      const Sample sample = frontier_sample(frontier);
      state.law = fit_power_laws({&sample, 1})[0];
    }
    state.spread = largest_gap(state);
    states.push_back(std::move(state));
  }
  // A shared floor costs a family no parameter worth speaking of.
  const std::size_t parameters = options.shared_floor ? 2 : 3;
  constexpr double kTolerance = 1e-5;
  for (int round = 0; round < options.rounds; ++round) {
    std::vector<State*> together;
    bool moved = false;
    for (State& state : states) {
      if (state.on_frontier.empty()) {
        continue;  // skipped
      }
      choose_runs(state, parameters);
      if (options.shared_floor) {
        together.push_back(&state);
      } else {
        moved |= refit({&state}, kTolerance);
      }
    }
    moved |= refit(together, kTolerance);
    if (!moved) {
      break;
    }
  }
  std::vector<TangentFit> fits;
  for (const State& state : states) {
    fits.push_back(to_fit(state));
  }
  return fits;
}

int degrees_of_freedom(std::span<const TangentFit> fits, bool shared_floor) {
  int free = shared_floor ? -1 : 0;
  for (const TangentFit& fit : fits) {
    if (fit.law) {
      free += std::max(
          0, static_cast<int>(fit.used_count) - (shared_floor ? 2 : 3));
    }
  }
  return std::max(free, 0);
}

}  // namespace einforge::scaling
