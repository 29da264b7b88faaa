#include "einforge/search/model_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::search {
namespace {

using store::Status;

constexpr int kRungs = 3;

// A made-up space: what a structure is worth is a smooth function of two
// features, the learning rate has a best value, and all is in a law of width
// and tokens with noise of its own for each trial.
struct World {
  std::vector<Candidate> candidates;
  std::vector<std::vector<double>> losses;   // by rung
  std::vector<std::vector<double>> seconds;  // by rung

  explicit World(std::uint64_t seed, int structures = 20) {
    base::Random random(seed);
    int kind = 0;
    for (const double width : {0.0, 0.5, 1.0}) {
      for (int structure = 0; structure < structures; ++structure) {
        const double a = random.uniform();
        const double b = random.uniform();
        ++kind;
        for (const double rate : {0.0, 0.33, 0.67, 1.0}) {
          Candidate candidate;
          candidate.kind = kind;
          candidate.baseline = structure == 0;
          candidate.width = 64 * std::pow(2, 2 * width);
          candidate.features = {a, b, width, rate};
          const double worth =
              0.3 *
              std::exp(-8 * ((a - 0.7) * (a - 0.7) + (b - 0.3) * (b - 0.3)));
          const double off = 0.4 * (rate - 0.6) * (rate - 0.6);
          // Structures that are worth more are slower.
          const double speed = 1e9 * std::exp(-6 * worth);
          std::vector<double> curve;
          std::vector<double> time;
          for (int rung = 0; rung < kRungs; ++rung) {
            const double flops = 1e12 * std::pow(3, rung - 2);
            const double tokens = flops / (6 * candidate.width * 1000);
            candidate.flops.push_back(flops);
            candidate.tokens.push_back(tokens);
            curve.push_back(
                1.5 + std::exp(-worth + off + 0.01 * random.normal()) *
                          (0.4 * std::pow(candidate.width / 64, -0.5) +
                           0.8 * std::pow(tokens / 1e6, -0.3)));
            time.push_back(flops / speed);
          }
          candidates.push_back(candidate);
          losses.push_back(curve);
          seconds.push_back(time);
        }
      }
    }
  }
};

struct Played {
  std::vector<std::size_t> order;  // of rungs trained
  std::optional<Belief> belief;    // at the end
  std::vector<Prediction> predictions;
  std::vector<TrialState> trials;
  double compute = 0;  // whole trials, until the best one ended
  bool finished = false;
};

struct PlayOptions {
  ModelOptions model;
  std::size_t lookahead = 1;
  // Of results and kills; none without.
  std::optional<std::uint64_t> disorder;
  std::size_t most = 100'000;  // rungs
};

Played play(const World& world, const PlayOptions& options) {
  const auto start = [&] {
    return Asynchronous(
        model_policy(world.candidates, kRungs, options.model),
        kRungs,
        options.lookahead);
  };
  Asynchronous scheduler = start();
  base::Random random(options.disorder.value_or(0));
  Played result;
  result.trials.assign(
      world.candidates.size(), TrialState{Status::kPruned, 0, {}, {}});
  while (result.order.size() < options.most) {
    const Plan next = scheduler.plan(result.trials);
    result.finished = next.finished;
    result.belief = scheduler.belief();
    result.predictions = scheduler.predictions();
    for (const std::size_t index : next.queue) {
      result.trials[index].status = Status::kQueued;
    }
    std::vector<std::size_t> queued;
    for (std::size_t i = 0; i < result.trials.size(); ++i) {
      if (result.trials[i].status == Status::kQueued) {
        queued.push_back(i);
      }
    }
    if (queued.empty()) {
      break;
    }
    const std::size_t index =
        queued[options.disorder ? random.below(queued.size()) : 0];
    result.order.push_back(index);
    TrialState& trial = result.trials[index];
    const auto rung = static_cast<std::size_t>(trial.rung);
    trial.rung_losses.push_back(world.losses[index][rung]);
    trial.rung_seconds.push_back(world.seconds[index][rung]);
    if (std::isnan(trial.rung_losses.back())) {
      trial.rung_losses.pop_back();
      trial.status = Status::kDiverged;
    } else {
      ++trial.rung;
      trial.status = trial.rung == kRungs ? Status::kDone : Status::kPruned;
    }
    if (options.disorder && random.below(6) == 0) {
      scheduler = start();  // killed
    }
  }
  return result;
}

ModelOptions in_order(const World& world, std::uint64_t seed = 1) {
  ModelOptions options;
  options.order.resize(world.candidates.size());
  std::iota(options.order.begin(), options.order.end(), std::size_t{0});
  base::Random random(seed);
  for (std::size_t left = options.order.size(); left > 1; --left) {
    std::swap(options.order[left - 1], options.order[random.below(left)]);
  }
  return options;
}

// Whole trials' worth of compute until one has ended whose loss is within 0.5%
// of the least.
double compute_to_find(const World& world, const Played& played) {
  double least = INFINITY;
  for (const auto& curve : world.losses) {
    least = std::fmin(least, curve.back());
  }
  std::vector<int> rungs(world.losses.size());
  double flops = 0;
  for (const std::size_t index : played.order) {
    const int rung = rungs[index]++;
    const auto& ends = world.candidates[index].flops;
    flops += ends[static_cast<std::size_t>(rung)] -
             (rung > 0 ? ends[static_cast<std::size_t>(rung - 1)] : 0);
    if (rung + 1 == kRungs && world.losses[index].back() < 1.005 * least) {
      return flops / ends.back();
    }
  }
  return INFINITY;
}

TEST(ModelPolicy, FindsTheBestWithFarLessThanChance) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const World world(seed);
    ModelOptions model = in_order(world, seed);
    model.stop_gain = 0;
    const double compute =
        compute_to_find(world, play(world, {.model = model, .most = 150}));
    double least = INFINITY;
    for (const auto& curve : world.losses) {
      least = std::fmin(least, curve.back());
    }
    const auto good = std::count_if(
        world.losses.begin(), world.losses.end(), [&](const auto& curve) {
          return curve.back() < 1.005 * least;
        });
    // Random draws without replacement find the first of `good` after
    // (n + 1) / (good + 1) trials on average.
    const double chance = static_cast<double>(world.losses.size() + 1) /
                          static_cast<double>(good + 1);
    EXPECT_LT(compute, chance / 3) << "seed " << seed << ", " << good;
  }
}

TEST(ModelPolicy, StopsWhenNothingIsToBeGained) {
  const World world(4);
  ModelOptions model = in_order(world);
  model.stop_gain = 0.02;
  const Played played = play(world, {.model = model});
  EXPECT_TRUE(played.finished);
  EXPECT_LT(played.order.size(), world.losses.size() / 2);
  const auto is_found = [&](std::uint64_t seed) {
    const World other(seed);
    return compute_to_find(other, play(other, {.model = in_order(other)})) < 20;
  };
  int found = 0;  // before the end, within 0.5% of the least loss
  for (const std::uint64_t seed : {11, 12, 13, 14, 15, 16}) {
    found += is_found(seed) ? 1 : 0;
  }
  EXPECT_GE(found, 5);
  // What it holds at the end is a trial that ended and one of the best.
  ASSERT_TRUE(played.belief);
  const std::size_t incumbent = played.belief->trial;
  EXPECT_EQ(played.trials[incumbent].status, Status::kDone);
  double least = INFINITY;
  for (const auto& curve : world.losses) {
    least = std::fmin(least, curve.back());
  }
  EXPECT_LT(world.losses[incumbent].back(), 1.02 * least);
  EXPECT_GT(played.belief->log_multiplier, 0);
  EXPECT_LT(played.belief->gain, std::log(1.02));
  // Most of what did not begin is not expected to.
  const auto unstarted = static_cast<std::size_t>(std::count_if(
      played.trials.begin(), played.trials.end(), [](const TrialState& trial) {
        return trial.rung == 0;
      }));
  EXPECT_GT(played.belief->hopeless, unstarted / 2);
  EXPECT_LE(played.belief->hopeless, unstarted);
  // The multiplier is over a baseline that was trained to the end.
  bool baseline = false;
  for (std::size_t i = 0; i < played.trials.size(); ++i) {
    baseline |= world.candidates[i].baseline &&
                played.trials[i].status == Status::kDone;
  }
  EXPECT_TRUE(baseline);
}

// Results come in another order and the search is killed again and again: the
// same trials train to the same rungs.
TEST(ModelPolicy, DecisionsDependNeitherOnOrderNorOnKills) {
  const World world(5, 6);
  for (const std::size_t lookahead : {1, 3}) {
    PlayOptions options{
        .model = in_order(world), .lookahead = lookahead, .disorder = {}};
    options.model.stop_gain = 0.03;
    const Played calm = play(world, options);
    options.disorder = 9;
    const Played killed = play(world, options);
    EXPECT_TRUE(calm.finished);
    EXPECT_TRUE(killed.finished);
    EXPECT_EQ(calm.order.size(), killed.order.size());
    for (std::size_t i = 0; i < calm.trials.size(); ++i) {
      EXPECT_EQ(calm.trials[i].rung, killed.trials[i].rung);
    }
  }
}

// In seconds the best structures are slow, and another is the best.
TEST(ModelPolicy, SecondsAreAnotherObjective) {
  const World world(6);
  ModelOptions model = in_order(world);
  model.stop_gain = 0.03;
  const auto mean_time = [&](const Played& played) {
    double sum = 0;
    double count = 0;
    for (std::size_t i = 0; i < played.trials.size(); ++i) {
      if (played.trials[i].status == Status::kDone) {
        sum += world.seconds[i].back();
        ++count;
      }
    }
    return sum / count;
  };
  const double in_flops = mean_time(play(world, {.model = model}));
  model.objectives = {Cost::kSeconds};
  EXPECT_LT(mean_time(play(world, {.model = model})), in_flops);
}

// How far the least loss of those that ended is from the least of all, in ln,
// the mean over limits of the time of a token.
double regret(const World& world, const Played& played) {
  std::vector<double> limits;
  for (const Candidate& candidate : world.candidates) {
    limits.push_back(candidate.costs.decode_ms);
  }
  std::sort(limits.begin(), limits.end());
  double sum = 0;
  constexpr int kLimits = 10;
  for (int i = 1; i <= kLimits; ++i) {
    const double limit = limits[i * limits.size() / (kLimits + 1)];
    double held = 6;  // a bad loss
    double least = held;
    for (std::size_t trial = 0; trial < world.losses.size(); ++trial) {
      if (world.candidates[trial].costs.decode_ms <= limit) {
        least = std::min(least, world.losses[trial].back());
        if (played.trials[trial].status == Status::kDone) {
          held = std::min(held, world.losses[trial].back());
        }
      }
    }
    sum += std::log(held / least) / kLimits;
  }
  return sum;
}

// Better structures decode more slowly.
World decoding_world(std::uint64_t seed) {
  World world(seed);
  for (std::size_t i = 0; i < world.candidates.size(); ++i) {
    Candidate& candidate = world.candidates[i];
    candidate.costs.decode_ms =
        1e-9 * candidate.width * world.seconds[i].back();
  }
  return world;
}

TEST(ModelPolicy, SeveralObjectivesFindMoreOfTheParetoSet) {
  double one = 0;
  double both = 0;
  for (const std::uint64_t seed : {21, 22, 23}) {
    const World world = decoding_world(seed);
    PlayOptions options{.model = in_order(world), .disorder = {}, .most = 130};
    options.model.stop_gain = 0;
    one += regret(world, play(world, options));
    options.model.objectives = {Cost::kFlops, Cost::kDecodeMs};
    both += regret(world, play(world, options));
  }
  std::printf("regret %.4f for FLOPs, %.4f for both\n", one / 3, both / 3);
  EXPECT_LT(both, 0.6 * one);
}

TEST(ModelPolicy, SeveralObjectivesEndToo) {
  const World world = decoding_world(24);
  ModelOptions model = in_order(world);
  model.objectives = {Cost::kDecodeMs, Cost::kSeconds};
  model.stop_gain = 0.03;
  const Played played = play(world, {.model = model});
  EXPECT_TRUE(played.finished);
  EXPECT_LT(played.order.size(), world.losses.size());
  EXPECT_LT(regret(world, played), 0.02);
}

TEST(ModelPolicy, OneCostOfAModelIsAnObjective) {
  const World world = decoding_world(25);
  ModelOptions model = in_order(world);
  model.stop_gain = 0.03;
  const auto time = [&](const Played& played) {
    return world.candidates[played.belief->trial].costs.decode_ms;
  };
  const Played flops = play(world, {.model = model});
  model.objectives = {Cost::kDecodeMs};
  const Played decoding = play(world, {.model = model});
  EXPECT_TRUE(decoding.finished);
  EXPECT_LT(time(decoding), time(flops));
}

TEST(ModelPolicy, SaysWhatItExpected) {
  const World world(26);
  const Played played = play(world, {.model = in_order(world)});
  ASSERT_GT(played.predictions.size(), 20U);
  ASSERT_LT(played.predictions.size(), played.order.size());
  double squares = 0;
  double within = 0;
  for (const Prediction& prediction : played.predictions) {
    const double off =
        std::log(world.losses[prediction.trial]
                             [static_cast<std::size_t>(prediction.rung)]) -
        prediction.log_loss;
    squares += off * off;
    within += std::abs(off) < 1.96 * prediction.deviation ? 1 : 0;
  }
  const auto count = static_cast<double>(played.predictions.size());
  std::printf(
      "off by %.4f, %.2f within\n", std::sqrt(squares / count), within / count);
  EXPECT_LT(std::sqrt(squares / count), 0.05);
  // Some 30 predictions, the first of which know little: 95% would be right.
  EXPECT_GT(within / count, 0.6);
}

// What is known of speeds before anything trains spares what is slow; those of
// half of the kinds are as good as all.
TEST(ModelPolicy, SpeedsMeasuredBeforeSpareTime) {
  std::vector<double> spent;
  for (const int measured : {0, 1, 2}) {  // none, every second kind, all
    double time = 0;
    for (const std::uint64_t seed : {6, 7, 8}) {
      World world(seed);
      for (std::size_t i = 0; i < world.candidates.size(); ++i) {
        Candidate& candidate = world.candidates[i];
        if (measured == 2 || (measured == 1 && candidate.kind % 2 == 0)) {
          candidate.speed = candidate.flops[0] / world.seconds[i][0];
        }
      }
      ModelOptions model = in_order(world, seed);
      model.objectives = {Cost::kSeconds};
      model.stop_gain = 0.03;
      const Played played = play(world, {.model = model});
      for (std::size_t i = 0; i < played.trials.size(); ++i) {
        const int rung = played.trials[i].rung;
        time +=
            rung > 0 ? world.seconds[i][static_cast<std::size_t>(rung - 1)] : 0;
      }
    }
    spent.push_back(time);
  }
  std::printf("%.0f s, %.0f s, %.0f s\n", spent[0], spent[1], spent[2]);
  EXPECT_LT(spent[1], spent[0]);
  EXPECT_LT(spent[2], spent[0]);
}

TEST(ModelPolicy, FailuresAreLeftAlone) {
  World world(7);
  for (std::size_t i = 0; i < world.losses.size(); ++i) {
    if (world.candidates[i].features[3] == 1.0) {
      world.losses[i].assign(kRungs, NAN);  // this rate diverges
    }
  }
  ModelOptions model = in_order(world);
  model.stop_gain = 0.02;
  const Played played = play(world, {.model = model});
  EXPECT_TRUE(played.finished);
  int diverged = 0;
  for (std::size_t i = 0; i < played.trials.size(); ++i) {
    diverged += played.trials[i].status == Status::kDiverged ? 1 : 0;
  }
  EXPECT_LT(diverged, 15);

  for (auto& curve : world.losses) {
    curve.assign(kRungs, NAN);
  }
  const Played all = play(world, {.model = model});
  EXPECT_TRUE(all.finished);
  EXPECT_EQ(all.order.size(), world.losses.size());
}

TEST(ModelPolicy, SmallSpaces) {
  const World whole(8);
  for (const std::size_t size : {0, 1, 2, 5}) {
    World world(8);
    world.candidates.resize(size);
    world.losses.resize(size);
    world.seconds.resize(size);
    const Played played = play(world, {.model = in_order(world)});
    EXPECT_TRUE(played.finished);
    EXPECT_GE(played.order.size(), std::min<std::size_t>(size, 1) * kRungs);
  }
}

}  // namespace
}  // namespace einforge::search
