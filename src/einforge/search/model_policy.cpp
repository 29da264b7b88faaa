#include "einforge/search/model_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>
#include <optional>
#include <utility>

#include "einforge/search/baseline_line.h"
#include "einforge/search/curve_law.h"
#include "einforge/search/gaussian_process.h"

namespace einforge::search {
namespace {

double normal_density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
}

double normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::numbers::sqrt2);
}

// E[max(0, X)] of a normal X.
double expected_gain(double mean, double deviation) {
  if (deviation <= 0) {
    return std::max(0.0, mean);
  }
  const double z = mean / deviation;
  return deviation * (z * normal_cdf(z) + normal_density(z));
}

struct Observation {
  std::size_t trial = 0;
  int rung = 0;
  double loss = 0;
};

// What ln loss, over the law, is a sum of: what structures, sizes and learning
// rates are worth by themselves, how much that depends on each other and on the
// length of training, and what is of a trial alone, at all its rungs. Main
// effects are told by few trials; the rest corrects them where there are many.
std::vector<GaussianProcess::Term> loss_terms(const Candidate& candidate) {
  const auto structure = static_cast<Eigen::Index>(candidate.of_structure);
  const auto size = structure + static_cast<Eigen::Index>(candidate.of_size);
  const auto rung = static_cast<Eigen::Index>(candidate.features.size());
  std::vector<GaussianProcess::Term> result = {{}};
  const auto add = [&](Eigen::Index from,
                       Eigen::Index to,
                       double variance,
                       bool exact = false) {
    if (from == to) {
      return;  // the same for all
    }
    std::vector<Eigen::Index> inputs(static_cast<std::size_t>(to - from));
    std::iota(inputs.begin(), inputs.end(), from);
    result.push_back({std::move(inputs), exact, variance});
  };
  constexpr double kMain = 0.3;
  constexpr double kPair = 0.1;
  constexpr double kTrial = 0.02;
  add(rung, rung + 1, 1);  // where the law is wrong about lengths
  add(0, structure, kMain);
  add(structure, size, kMain);
  add(size, rung, kMain);
  add(0, size, kPair);
  // The best rate depends on size and length.
  add(structure, rung + 1, 2 * kPair);
  add(0, rung + 1, kPair);
  add(0, rung, kTrial, /*exact=*/true);
  return result;
}

// A product of all inputs.
std::vector<GaussianProcess::Term> one_term(Eigen::Index inputs) {
  std::vector<Eigen::Index> all(static_cast<std::size_t>(inputs));
  std::iota(all.begin(), all.end(), Eigen::Index{0});
  return {{.inputs = std::move(all)}};
}

class ModelPolicy : public Policy {
 public:
  ModelPolicy(
      std::vector<Candidate> candidates, int rungs, ModelOptions options)
      : candidates_(std::move(candidates)),
        rungs_(rungs),
        options_(std::move(options)),
        seconds_(
            std::ranges::find(options_.objectives, Cost::kSeconds) !=
            options_.objectives.end()),
        trials_(candidates_.size()) {
    for (const Candidate& candidate : candidates_) {
      if (candidate.buildable && terms_.empty()) {
        terms_ = loss_terms(candidate);
      }
    }
    choose_design();
    if (seconds_) {
      predict_speeds();
    }
  }

  void reveal(
      std::size_t trial, int rung, double loss, double seconds) override {
    State& state = trials_[trial];
    state.pending = false;
    if (std::isnan(loss) || loss <= 0) {
      state.lost = true;
      loss = NAN;
    }
    observations_.push_back({trial, rung, loss});
    if (seconds > 0) {
      trained_[candidates_[trial].kind] =
          std::log(flops(trial, rung) / seconds);
    }
    process_.reset();
  }

  std::optional<std::size_t> next(std::size_t) override {
    if (design_.size() > begun_) {
      return advance(design_[begun_++]);
    }
    const bool any = std::any_of(
        observations_.begin(),
        observations_.end(),
        [](const Observation& seen) { return !std::isnan(seen.loss); });
    if (!any) {
      // All has failed so far, or nothing has ended.
      return observations_.size() < begun_ ? std::nullopt : next_unstarted();
    }
    return choose();
  }

  std::optional<Belief> belief() const override { return held_; }

  std::vector<Prediction> predictions() const override { return predictions_; }

 private:
  struct State {
    int rung = 0;  // decided
    bool pending = false;
    bool lost = false;
  };

  // What turns losses into values of the process and back, and its parameters.
  struct Fit {
    CurveLaw law{{}};
    GaussianProcess::Parameters parameters;
    double centre = 0;
    double scale = 1;
    std::size_t observations = 0;
  };

  // The baseline first, then any, in the given order: enough to fit a line to
  // each feature, and no more than a third of all.
  void choose_design() {
    std::size_t features = 0;
    std::vector<std::size_t> baseline;
    std::vector<std::size_t> others;
    for (const std::size_t trial : options_.order) {
      if (candidates_[trial].buildable) {
        features = candidates_[trial].features.size();
        (candidates_[trial].baseline ? baseline : others).push_back(trial);
      }
    }
    const std::size_t all = baseline.size() + others.size();
    constexpr std::size_t kFewest = 4;
    const std::size_t size =
        std::min(all, std::max(kFewest, std::min(features, all / 3)));
    constexpr std::size_t kBaselines = 2;
    const std::size_t first = std::min({kBaselines, baseline.size(), size});
    design_.assign(
        baseline.begin(),
        baseline.begin() + static_cast<std::ptrdiff_t>(first));
    for (std::size_t i = 0; i < others.size() && design_.size() < size; ++i) {
      design_.push_back(others[i]);
    }
  }

  std::size_t advance(std::size_t trial) {
    trials_[trial].pending = true;
    ++trials_[trial].rung;
    return trial;
  }

  std::optional<std::size_t> next_unstarted() {
    for (const std::size_t trial : options_.order) {
      if (candidates_[trial].buildable && trials_[trial].rung == 0) {
        return advance(trial);
      }
    }
    return std::nullopt;
  }

  double flops(std::size_t trial, int rung) const {
    return rung < 0 ? 0
                    : candidates_[trial].flops[static_cast<std::size_t>(rung)];
  }

  // Of the kinds that were not measured, from those that were: a Gaussian
  // process over the features.
  void predict_speeds() {
    std::map<int, std::size_t> firsts;  // trials, by kind
    std::vector<Observation> known;
    std::vector<Observation> unknown;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const Candidate& candidate = candidates_[i];
      if (candidate.buildable && firsts.emplace(candidate.kind, i).second) {
        (candidate.speed > 0 ? known : unknown).push_back({i, 0, NAN});
      }
    }
    if (known.empty()) {
      return;
    }
    constexpr std::size_t kMostForFit = 250;
    known.resize(std::min(known.size(), kMostForFit));
    double mean = 0;
    for (const Observation& seen : known) {
      const double speed = std::log(candidates_[seen.trial].speed);
      mean += speed / static_cast<double>(known.size());
    }
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (candidates_[i].speed > 0) {
        expected_[candidates_[i].kind] = std::log(candidates_[i].speed);
      }
    }
    if (unknown.empty()) {
      return;
    }
    Eigen::VectorXd y(static_cast<Eigen::Index>(known.size()));
    for (std::size_t i = 0; i < known.size(); ++i) {
      y[static_cast<Eigen::Index>(i)] =
          std::log(candidates_[known[i].trial].speed) - mean;
    }
    const Eigen::MatrixXd x = inputs(known);
    const auto terms = one_term(x.cols());
    const GaussianProcess process(
        x, y, terms, GaussianProcess::fit(x, y, terms));
    const Eigen::VectorXd means = process.predict(inputs(unknown)).mean;
    for (std::size_t i = 0; i < unknown.size(); ++i) {
      expected_[candidates_[unknown[i].trial].kind] =
          mean + means[static_cast<Eigen::Index>(i)];
    }
  }

  // ln FLOPs per second, or 0 where compute is FLOPs: as trained, else as
  // measured before or predicted from that, else the mean of those trained.
  double log_speed(std::size_t trial) const {
    if (!seconds_) {
      return 0;
    }
    const int kind = candidates_[trial].kind;
    for (const std::map<int, double>* speeds : {&trained_, &expected_}) {
      if (const auto found = speeds->find(kind); found != speeds->end()) {
        return found->second;
      }
    }
    double mean = 0;
    for (const auto& [other, speed] : trained_) {
      mean += speed / static_cast<double>(trained_.size());
    }
    return mean;
  }

  double compute(std::size_t trial, int rung) const {
    return flops(trial, rung) * std::exp(-log_speed(trial));
  }

  double log_cost(Cost which, std::size_t trial, int rung) const {
    switch (which) {
      case Cost::kFlops:
        return std::log(flops(trial, rung));
      case Cost::kSeconds:
        return std::log(compute(trial, rung));
      case Cost::kMemory:
      case Cost::kDecodeMs:
        break;
    }
    return std::log(candidates_[trial].costs.at(which));
  }

  LossPoint point(std::size_t trial, int rung) const {
    const Candidate& candidate = candidates_[trial];
    return {
        candidate.width,
        candidate.tokens[static_cast<std::size_t>(rung)],
        candidate.omega,
        candidate.psi,
        1};
  }

  // Features, and how far the rung is from the end.
  Eigen::VectorXd input(std::size_t trial, int rung) const {
    const Candidate& candidate = candidates_[trial];
    const auto count = static_cast<Eigen::Index>(candidate.features.size());
    Eigen::VectorXd result(count + 1);
    for (Eigen::Index i = 0; i < count; ++i) {
      result[i] = candidate.features[static_cast<std::size_t>(i)];
    }
    result[count] = rungs_ > 1 ? static_cast<double>(rung) / (rungs_ - 1) : 0;
    return result;
  }

  // What is too bad to matter is not to bend the rest.
  static constexpr double kBad = 2;
  static double squash(double value) {
    return value > kBad ? kBad + std::log1p(value - kBad) : value;
  }
  static double unsquash(double value) {
    return value > kBad ? kBad + std::expm1(value - kBad) : value;
  }

  // What the process sees: at most so many, the latest of each trial and the
  // most recent before the others.
  std::vector<Observation> shown(std::size_t most) const {
    if (observations_.size() <= most) {
      return observations_;
    }
    std::map<std::size_t, int> latest;
    for (const Observation& seen : observations_) {
      latest[seen.trial] = std::max(latest[seen.trial], seen.rung);
    }
    std::vector<std::size_t> by_worth;
    for (const bool last : {true, false}) {
      for (std::size_t i = observations_.size(); i-- > 0;) {
        const Observation& seen = observations_[i];
        if ((latest[seen.trial] == seen.rung) == last) {
          by_worth.push_back(i);
        }
      }
    }
    by_worth.resize(most);
    std::sort(by_worth.begin(), by_worth.end());
    std::vector<Observation> result;
    for (const std::size_t index : by_worth) {
      result.push_back(observations_[index]);
    }
    return result;
  }

  Eigen::MatrixXd inputs(const std::vector<Observation>& seen) const {
    Eigen::MatrixXd x(
        static_cast<Eigen::Index>(seen.size()), input(seen[0].trial, 0).size());
    for (std::size_t i = 0; i < seen.size(); ++i) {
      x.row(static_cast<Eigen::Index>(i)) = input(seen[i].trial, seen[i].rung);
    }
    return x;
  }

  // In units of their spread about the law; one that failed is worse than the
  // worst.
  Eigen::VectorXd values(const std::vector<Observation>& seen) const {
    Eigen::VectorXd y(static_cast<Eigen::Index>(seen.size()));
    double worst = 0;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const auto [trial, rung, loss] = seen[i];
      double& value = y[static_cast<Eigen::Index>(i)];
      value = NAN;
      if (!std::isnan(loss)) {
        value = squash(
            (std::log(loss / fit_.law.loss(point(trial, rung))) - fit_.centre) /
            fit_.scale);
        worst = std::max(worst, value);
      }
    }
    for (double& value : y) {
      value = std::isnan(value) ? worst + 1 : value;
    }
    return y;
  }

  // Law, centre, scale and lengths are found again when there are half as many
  // observations more: they depend on how many there are, not on when the
  // search was started.
  void fit() {
    constexpr std::size_t kMostForFit = 250;
    const std::vector<Observation> seen = shown(kMostForFit);
    std::vector<LossPoint> points;
    for (const auto& [trial, rung, loss] : seen) {
      if (!std::isnan(loss)) {
        points.push_back(point(trial, rung));
        points.back().loss = loss;
      }
    }
    fit_.law = CurveLaw(points);
    std::vector<double> residuals;
    for (const LossPoint& known : points) {
      residuals.push_back(std::log(known.loss / fit_.law.loss(known)));
    }
    // The middle, and the distance to it of the better half: learning rates
    // that are wrong have a long tail.
    std::sort(residuals.begin(), residuals.end());
    fit_.centre = 0;
    fit_.scale = 1;
    if (!residuals.empty()) {
      constexpr double kLeastScale = 1e-3;
      fit_.centre = residuals[residuals.size() / 2];
      fit_.scale =
          std::max(kLeastScale, fit_.centre - residuals[residuals.size() / 6]);
    }
    fit_.parameters = GaussianProcess::fit(inputs(seen), values(seen), terms_);
    fit_.observations = observations_.size();
  }

  void believe() {
    if (fit_.observations == 0 ||
        2 * observations_.size() >= 3 * fit_.observations) {
      fit();
    }
    constexpr std::size_t kMost = 800;
    std::vector<Observation> seen = shown(kMost);
    Eigen::MatrixXd x = inputs(seen);
    Eigen::VectorXd y = values(seen);
    process_.emplace(x, y, terms_, fit_.parameters);
    // What runs is expected to come out as expected.
    std::vector<Observation> expected;
    for (std::size_t i = 0; i < trials_.size(); ++i) {
      if (trials_[i].pending) {
        expected.push_back({i, trials_[i].rung - 1, NAN});
      }
    }
    if (expected.empty()) {
      return;
    }
    const Eigen::Index known = y.size();
    const Eigen::VectorXd means = process_->predict(inputs(expected)).mean;
    seen.insert(seen.end(), expected.begin(), expected.end());
    y.conservativeResize(known + means.size());
    y.tail(means.size()) = means;
    x = inputs(seen);
    process_.emplace(x, std::move(y), terms_, fit_.parameters);
  }

  double log_loss(std::size_t trial, int rung, double value) const {
    return std::log(fit_.law.loss(point(trial, rung))) + fit_.centre +
           fit_.scale * value;
  }

  // Of the baseline, as the process has it.
  BaselineLine baseline_line() const {
    std::vector<Observation> ends;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (candidates_[i].buildable && candidates_[i].baseline) {
        for (int rung = 0; rung < rungs_; ++rung) {
          ends.push_back({i, rung, NAN});
        }
      }
    }
    const Eigen::VectorXd means = process_->predict(inputs(ends)).mean;
    std::vector<ComputeLoss> points;
    for (std::size_t i = 0; i < ends.size(); ++i) {
      const auto [trial, rung, loss] = ends[i];
      const double cost = log_cost(options_.objectives.front(), trial, rung);
      if (std::isfinite(cost)) {
        points.push_back(
            {cost, log_loss(trial, rung, means[static_cast<Eigen::Index>(i)])});
      }
    }
    return fit_baseline(std::move(points));
  }

  // What is expected of a trial.
  struct Outlook {
    std::size_t trial = 0;
    double mean = 0;       // of ln M when it has ended
    double deviation = 0;  // of the same
    double log_loss = 0;   // mean
  };

  // Of all trials that can be built and have not failed.
  std::vector<Outlook> outlooks(const BaselineLine& baseline) const {
    constexpr std::size_t kAtOnce = 512;
    const int last = rungs_ - 1;
    std::vector<Outlook> result;
    std::vector<Observation> ends;
    const auto predict = [&] {
      if (ends.empty()) {
        return;
      }
      const GaussianProcess::Prediction expected =
          process_->predict(inputs(ends));
      for (std::size_t i = 0; i < ends.size(); ++i) {
        const std::size_t trial = ends[i].trial;
        const auto at = static_cast<Eigen::Index>(i);
        Outlook outlook{.trial = trial};
        outlook.log_loss = log_loss(trial, last, expected.mean[at]);
        outlook.mean = baseline.log_multiplier(
            log_cost(options_.objectives.front(), trial, last),
            outlook.log_loss);
        outlook.deviation =
            fit_.scale / baseline.slope * std::sqrt(expected.variance[at]);
        result.push_back(outlook);
      }
      ends.clear();
    };
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (candidates_[i].buildable && !trials_[i].lost) {
        ends.push_back({i, last, NAN});
        if (ends.size() == kAtOnce) {
          predict();
        }
      }
    }
    predict();
    return result;
  }

  // Several objectives: the least ln loss that is held, by limits of the costs.
  class Front {
   public:
    // Logarithms of costs, (trials, objectives); rows of NaN for those that do
    // not count.
    explicit Front(Eigen::MatrixXd costs) : costs_(std::move(costs)) {
      constexpr Eigen::Index kLimits = 256;
      constexpr double kSame = 0.05;  // costs that differ by less do not count
      limits_.resize(kLimits, costs_.cols());
      for (Eigen::Index cost = 0; cost < costs_.cols(); ++cost) {
        const auto column = costs_.col(cost).array();
        const double least = column.isNaN().select(INFINITY, column).minCoeff();
        const double most = column.isNaN().select(-INFINITY, column).maxCoeff();
        for (Eigen::Index i = 0; i < kLimits; ++i) {
          // The first has no limits.
          limits_(i, cost) = i == 0 || most - least < kSame
                                 ? most
                                 : least + (most - least) * halton(i, cost);
        }
      }
      held_ = Eigen::VectorXd::Constant(kLimits, INFINITY);
    }

    void hold(std::size_t trial, double log_loss) {
      worst_ = std::max(worst_, log_loss);
      for (Eigen::Index i = 0; i < limits_.rows(); ++i) {
        if (within(trial, i)) {
          held_[i] = std::min(held_[i], log_loss);
        }
      }
    }

    // Of holding a trial too, whose ln loss is normal.
    double expected_gain(
        std::size_t trial, double log_loss, double deviation) const {
      if (worst_ == -INFINITY) {
        return INFINITY;  // nothing is held
      }
      double sum = 0;
      for (Eigen::Index i = 0; i < limits_.rows(); ++i) {
        if (within(trial, i)) {
          sum += search::expected_gain(
              std::min(held_[i], worst_) - log_loss, deviation);
        }
      }
      return sum / static_cast<double>(limits_.rows());
    }

   private:
    bool within(std::size_t trial, Eigen::Index limit) const {
      return (costs_.row(static_cast<Eigen::Index>(trial)).array() <=
              limits_.row(limit).array())
          .all();
    }

    // The i-th of a sequence that fills (0, 1) evenly, another for each cost.
    static double halton(Eigen::Index index, Eigen::Index cost) {
      constexpr std::array<Eigen::Index, 4> kBases = {2, 3, 5, 7};
      const Eigen::Index base = kBases[static_cast<std::size_t>(cost)];
      double result = 0;
      double share = 1;
      for (; index > 0; index /= base) {
        share /= static_cast<double>(base);
        result += share * static_cast<double>(index % base);
      }
      return result;
    }

    Eigen::MatrixXd costs_;
    Eigen::MatrixXd limits_;  // (limits, objectives)
    Eigen::VectorXd held_;
    double worst_ = -INFINITY;
  };

  // What is held of the trials that have ended, or, before any has, of those
  // that began, at their worst. None for one objective.
  std::optional<Front> front(
      const std::vector<Outlook>& outlooks,
      bool ended,
      const BaselineLine& baseline) const {
    if (options_.objectives.size() == 1) {
      return std::nullopt;
    }
    Eigen::MatrixXd costs = Eigen::MatrixXd::Constant(
        static_cast<Eigen::Index>(candidates_.size()),
        static_cast<Eigen::Index>(options_.objectives.size()),
        NAN);
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      for (std::size_t cost = 0;
           candidates_[i].buildable && cost < options_.objectives.size();
           ++cost) {
        costs(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(cost)) =
            log_cost(options_.objectives[cost], i, rungs_ - 1);
      }
    }
    Front result(std::move(costs));
    for (const Outlook& outlook : outlooks) {
      const State& state = trials_[outlook.trial];
      if (ended && state.rung == rungs_ && !state.pending) {
        result.hold(outlook.trial, outlook.log_loss);
      } else if (!ended && state.rung > 0) {
        result.hold(
            outlook.trial,
            outlook.log_loss + 2 * outlook.deviation * baseline.slope);
      }
    }
    return result;
  }

  std::optional<std::size_t> choose() {
    believe();
    const BaselineLine baseline = baseline_line();
    const int last = rungs_ - 1;
    const std::vector<Outlook> all = outlooks(baseline);
    std::vector<Outlook> open;  // of trials that can go on
    double best = -INFINITY;
    double floor = -INFINITY;
    bool baseline_ended = false;
    bool baseline_pending = false;
    for (const Outlook& outlook : all) {
      const State& state = trials_[outlook.trial];
      baseline_pending |= candidates_[outlook.trial].baseline && state.pending;
      if (state.rung == rungs_ && !state.pending) {
        if (outlook.mean > best) {
          best = outlook.mean;
          held_ = {
              .trial = outlook.trial,
              .log_multiplier = outlook.mean,
              .deviation = outlook.deviation};
        }
        baseline_ended |= candidates_[outlook.trial].baseline;
      } else if (!state.pending) {
        open.push_back(outlook);
      }
      if (state.rung > 0) {
        // Before any has ended, what one that began is sure to reach.
        floor = std::max(floor, outlook.mean - 2 * outlook.deviation);
      }
    }
    const bool ended = best > -INFINITY;
    best = ended ? best : floor;
    const std::optional<Front> held = front(all, ended, baseline);
    const auto improvement_of = [&](const Outlook& outlook) {
      return held ? held->expected_gain(
                        outlook.trial,
                        outlook.log_loss,
                        outlook.deviation * baseline.slope) /
                        baseline.slope
                  : expected_gain(outlook.mean - best, outlook.deviation);
    };
    double most = 0;
    double gain = 0;
    std::optional<std::size_t> chosen;
    for (const Outlook& outlook : open) {
      const double improvement = improvement_of(outlook);
      gain = std::max(gain, improvement);
      const double cost =
          compute(outlook.trial, last) -
          compute(outlook.trial, trials_[outlook.trial].rung - 1);
      if (improvement / cost > most) {
        most = improvement / cost;
        chosen = outlook.trial;
      }
    }
    if (held_) {
      held_->gain = gain;
      held_->hopeless = hopeless(open, held, baseline);
    }
    // A process that has seen little may be too sure: it is given as many
    // decisions as it began with to be surprised.
    calm_ = ended && gain < std::log1p(options_.stop_gain) ? calm_ + 1 : 0;
    if (calm_ > design_.size()) {
      chosen = baseline_ended || baseline_pending ? std::nullopt
                                                  : best_baseline(open);
    }
    if (!chosen) {
      return std::nullopt;
    }
    predict_next(*chosen);
    return advance(*chosen);
  }

  // Notes what the trial is expected to have at the end of its next rung.
  void predict_next(std::size_t trial) {
    const int rung = trials_[trial].rung;
    const GaussianProcess::Prediction expected =
        process_->predict(inputs({{trial, rung, NAN}}));
    predictions_.push_back(
        {trial,
         rung,
         log_loss(trial, rung, unsquash(expected.mean[0])),
         fit_.scale * std::sqrt(expected.variance[0] + process_->noise())});
  }

  std::size_t hopeless(
      const std::vector<Outlook>& open,
      const std::optional<Front>& front,
      const BaselineLine& baseline) const {
    constexpr double kInterval = 1.96;
    const double least = held_->log_multiplier - kInterval * held_->deviation;
    return static_cast<std::size_t>(
        std::ranges::count_if(open, [&](const Outlook& outlook) {
          const double upper = kInterval * outlook.deviation;
          return trials_[outlook.trial].rung == 0 &&
                 (front ? front->expected_gain(
                              outlook.trial,
                              outlook.log_loss - upper * baseline.slope,
                              0) <= 0
                        : outlook.mean + upper < least);
        }));
  }

  // The multiplier wants the baseline too.
  std::optional<std::size_t> best_baseline(
      const std::vector<Outlook>& open) const {
    const Outlook* best = nullptr;
    for (const Outlook& outlook : open) {
      if (candidates_[outlook.trial].baseline &&
          (best == nullptr || outlook.mean > best->mean)) {
        best = &outlook;
      }
    }
    return best == nullptr ? std::nullopt : std::optional(best->trial);
  }

  std::vector<Candidate> candidates_;
  int rungs_;
  ModelOptions options_;
  bool seconds_;  // compute is time
  std::vector<State> trials_;
  std::vector<std::size_t> design_;
  std::size_t begun_ = 0;  // of the design
  std::size_t calm_ = 0;   // decisions since a gain was expected
  std::vector<Observation> observations_;
  // ln FLOPs per second, by kind.
  std::map<int, double> trained_;
  std::map<int, double> expected_;
  std::vector<GaussianProcess::Term> terms_;
  Fit fit_;
  std::optional<GaussianProcess> process_;
  std::optional<Belief> held_;
  std::vector<Prediction> predictions_;
};

}  // namespace

std::unique_ptr<Policy> model_policy(
    std::vector<Candidate> candidates, int rungs, ModelOptions options) {
  return std::make_unique<ModelPolicy>(
      std::move(candidates), rungs, std::move(options));
}

}  // namespace einforge::search
