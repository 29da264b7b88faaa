#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"
#include "tests/structure/brute_force.h"

namespace einforge::structure {
namespace {

Structure of_sizes(const Sizes& n) {
  Structure layer;
  layer.sizes = n;
  layer.d_in = n.d_in();
  layer.d_out = n.d_out();
  return layer;
}

TEST(Cost, AgreesWithLoopsAndSingularValuesAtRandomPoints) {
  base::Random random(1);
  int deficient = 0;
  for (int point = 0; point < 2000; ++point) {
    const Sizes n = testing::random_sizes(random, 60);
    SCOPED_TRACE(::testing::PrintToString(n.values()));
    const Structure layer = of_sizes(n);
    testing::Cores cores = testing::random_cores(n, random);
    const Eigen::MatrixXd w = testing::dense_matrix(cores);
    const Eigen::VectorXd x = Eigen::VectorXd::Random(n.d_in());

    // Both orders compute the layer, with the multiplications we say.
    const auto ab = testing::contract(cores, x, true);
    const auto ba = testing::contract(cores, x, false);
    const Eigen::VectorXd y = w * x;
    ASSERT_LT((ab.y - y).norm(), 1e-9 * (1 + y.norm()));
    ASSERT_LT((ba.y - y).norm(), 1e-9 * (1 + y.norm()));
    ASSERT_EQ(macs(n, Order::kAB), ab.macs);
    ASSERT_EQ(macs(n, Order::kBA), ba.macs);
    const std::int64_t counted_macs = std::min(ab.macs, ba.macs);
    ASSERT_EQ(macs(layer), counted_macs);
    ASSERT_EQ(cheaper_order(n) == Order::kAB ? ab.macs : ba.macs, counted_macs);

    const auto counted_parameters =
        static_cast<std::int64_t>(cores.a.size() + cores.b.size());
    ASSERT_EQ(parameters(layer), counted_parameters);

    const std::int64_t rank = testing::numerical_rank(w);
    ASSERT_EQ(generic_rank(layer), rank);

    const double log_d =
        0.5 * std::log(static_cast<double>(n.d_in() * n.d_out()));
    const double log_min =
        std::log(static_cast<double>(std::min(n.d_in(), n.d_out())));
    const Taxonomy realised = taxonomy(layer);
    if (log_min > 0) {
      ASSERT_NEAR(
          realised.omega,
          std::log(
              static_cast<double>(counted_macs) /
              static_cast<double>(counted_parameters)) /
              log_d,
          1e-9);
      ASSERT_NEAR(
          realised.psi, std::log(static_cast<double>(rank)) / log_min, 1e-9);
      ASSERT_NEAR(
          realised.nu,
          std::log(static_cast<double>(counted_macs)) / log_d - 1,
          1e-9);
    }
    deficient += rank < std::min(n.d_in(), n.d_out());
  }
  EXPECT_GT(deficient, 100);  // or the ranks would prove little
}

// The narrowest stage of the two contraction orders: the rank, but for rare
// points.
std::int64_t bottlenecks(const Sizes& n) {
  const auto one_order = [](const Sizes& m) {
    return std::min(
        m.beta * m.gamma * std::min(m.alpha, m.delta * m.phi * m.rho),
        m.delta * m.phi * std::min(m.beta * m.gamma * m.rho, m.epsilon));
  };
  return std::min(
      one_order(n),
      one_order({n.beta, n.alpha, n.gamma, n.epsilon, n.delta, n.phi, n.rho}));
}

// The points where the rank is below the bottlenecks of both orders; they are
// too rare for the random test to hit all kinds.
TEST(Cost, RankIsExactWhereTheBottlenecksAreNotReached) {
  struct Case {
    Sizes n;
    std::int64_t rank;
  };
  const std::vector<Case> cases = {
      {{2, 2, 2, 3, 3, 1, 1}, 7},
      {{2, 3, 2, 3, 4, 1, 1}, 10},
      {{3, 3, 2, 4, 5, 1, 1}, 16},
      {{3, 3, 1, 2, 2, 2, 1}, 7},
      {{4, 5, 1, 3, 2, 3, 1}, 17},
      {{3, 5, 1, 5, 3, 1, 2}, 14},
      {{5, 5, 1, 3, 3, 3, 1}, 24},
      {{3, 2, 2, 5, 3, 1, 1}, 11},
  };
  base::Random random(2);
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::PrintToString(c.n.values()));
    testing::Cores cores = testing::random_cores(c.n, random);
    EXPECT_EQ(testing::numerical_rank(testing::dense_matrix(cores)), c.rank);
    EXPECT_EQ(generic_rank(c.n), c.rank);
    EXPECT_GT(bottlenecks(c.n), c.rank);
  }
}

// Few blocks and ranks make the rare cases common: all small sizes of the
// quivers of finite and affine type.
TEST(Cost, RankAgreesOnSmallQuivers) {
  base::Random random(3);
  int exceptions = 0;
  for (int point = 0; point < 4000; ++point) {
    const auto draw = [&](std::uint64_t largest) {
      return static_cast<std::int64_t>(1 + random.below(largest));
    };
    const Sizes n = {
        draw(6), draw(6), draw(3), draw(6), draw(6), draw(2), draw(2)};
    if (n.d_in() > 64 || n.d_out() > 64) {
      continue;
    }
    SCOPED_TRACE(::testing::PrintToString(n.values()));
    testing::Cores cores = testing::random_cores(n, random);
    const std::int64_t rank =
        testing::numerical_rank(testing::dense_matrix(cores));
    ASSERT_EQ(generic_rank(n), rank);
    exceptions += rank < bottlenecks(n);
  }
  EXPECT_GT(exceptions, 10);
}

TEST(Cost, ExchangingTheCoresChangesNothingButTheOrder) {
  base::Random random(4);
  for (int point = 0; point < 200; ++point) {
    const Sizes n = testing::random_sizes(random, 512);
    const Sizes m = {
        n.beta, n.alpha, n.gamma, n.epsilon, n.delta, n.phi, n.rho};
    EXPECT_EQ(macs(n, Order::kAB), macs(m, Order::kBA));
    EXPECT_EQ(parameters(n), parameters(m));
    EXPECT_EQ(generic_rank(n), generic_rank(m));
  }
}

TEST(Cost, TransposingKeepsParametersAndRank) {
  base::Random random(5);
  for (int point = 0; point < 200; ++point) {
    const Sizes n = testing::random_sizes(random, 512);
    const Sizes t = {
        n.delta, n.epsilon, n.phi, n.alpha, n.beta, n.gamma, n.rho};
    EXPECT_EQ(parameters(n), parameters(t));
    EXPECT_EQ(generic_rank(n), generic_rank(t))
        << ::testing::PrintToString(n.values());
  }
}

TEST(Cost, MacsOfBttEqualItsParameters) {
  base::Random random(6);
  for (int point = 0; point < 100; ++point) {
    Sizes n = testing::random_sizes(random, 512);
    n.beta = n.delta = 1;
    EXPECT_EQ(macs(n, Order::kAB), parameters(of_sizes(n)));
  }
}

TEST(Cost, DenseIsOneMatrix) {
  const Structure layer = realise(parse("dense"), 100, 300);
  EXPECT_EQ(macs(layer), 30000);
  EXPECT_EQ(parameters(layer), 30000);
  EXPECT_EQ(generic_rank(layer), 100);
  EXPECT_EQ(parametrisation(layer).size(), 1U);
}

// A mixture as it is built: a router's matrix and experts, of which the chosen
// are computed. Counted in the loops.
TEST(Cost, AMixtureHasAllExpertsAndDoesTheChosen) {
  base::Random random(7);
  for (int point = 0; point < 300; ++point) {
    const Sizes n = testing::random_sizes(random, 40);
    const auto experts = static_cast<std::int64_t>(1 + random.below(8));
    const auto active = static_cast<std::int64_t>(
        1 + random.below(static_cast<std::uint64_t>(experts)));
    SCOPED_TRACE(::testing::PrintToString(n.values()));
    const Eigen::VectorXd x = Eigen::VectorXd::Random(n.d_in());

    std::int64_t counted_parameters = 0;
    std::int64_t counted_macs = 0;
    std::vector<double> router = testing::normals(n.d_in() * experts, random);
    counted_parameters += static_cast<std::int64_t>(router.size());
    std::vector<std::pair<double, std::int64_t>> scores;
    for (std::int64_t e = 0; e < experts; ++e) {
      double score = 0;
      for (std::int64_t i = 0; i < n.d_in(); ++i, ++counted_macs) {
        score += router[static_cast<std::size_t>(e * n.d_in() + i)] * x(i);
      }
      scores.emplace_back(-score, e);
    }
    std::sort(scores.begin(), scores.end());
    Eigen::MatrixXd w = Eigen::MatrixXd::Zero(n.d_out(), n.d_in());
    std::int64_t both_orders[2] = {0, 0};
    for (std::int64_t place = 0; place < experts; ++place) {
      testing::Cores cores = testing::random_cores(n, random);
      counted_parameters +=
          static_cast<std::int64_t>(cores.a.size() + cores.b.size());
      if (place < active) {
        w += testing::dense_matrix(cores) * random.normal();
        both_orders[0] += testing::contract(cores, x, true).macs;
        both_orders[1] += testing::contract(cores, x, false).macs;
      }
    }
    counted_macs += std::min(both_orders[0], both_orders[1]);

    Structure layer = of_sizes(n);
    layer.spec.mixture = {experts, active};
    EXPECT_EQ(parameters(layer), counted_parameters);
    EXPECT_EQ(macs(layer), counted_macs);
    EXPECT_EQ(router_parameters(layer), n.d_in() * experts);
    ASSERT_EQ(generic_rank(layer), testing::numerical_rank(w));
    EXPECT_EQ(expert(layer), of_sizes(n));
    const double log_d =
        0.5 * std::log(static_cast<double>(n.d_in() * n.d_out()));
    if (log_d > 0) {
      EXPECT_NEAR(
          taxonomy(layer).omega,
          std::log(
              static_cast<double>(counted_macs) /
              static_cast<double>(counted_parameters)) /
              log_d,
          1e-9);
    }
  }
}

TEST(Cost, MixturesByHand) {
  // d 1024: an expert is monarch, 2 cores of 32 blocks of 32 x 32.
  const Structure btt = realise(parse("btt_moe:E=16,k=2"), 1024, 1024);
  EXPECT_EQ(btt.sizes, realise(parse("monarch"), 1024, 1024).sizes);
  EXPECT_EQ(parameters(btt), 16 * 2 * 32768 + 16 * 1024);
  EXPECT_EQ(macs(btt), 2 * 2 * 32768 + 16 * 1024);
  const Structure dense = realise(parse("dense_moe:E=8,k=2"), 64, 256);
  EXPECT_EQ(parameters(dense), 8 * 64 * 256 + 8 * 64);
  EXPECT_EQ(macs(dense), 2 * 64 * 256 + 8 * 64);
  EXPECT_EQ(generic_rank(dense), 64);
  const Structure low = realise(parse("low_rank_moe:0.5,E=4,k=1"), 1024, 1024);
  EXPECT_EQ(low.sizes.rho, 32);
  EXPECT_EQ(parameters(low), 4 * 2 * 1024 * 32 + 4 * 1024);
  EXPECT_EQ(generic_rank(low), 32);
  // By default the experts share the full rank, rounded up.
  const auto share = [](const char* text, std::int64_t in, std::int64_t out) {
    return realise(parse(text), in, out).sizes.rho;
  };
  EXPECT_EQ(share("low_rank_moe:E=8,k=2", 1024, 4096), 128);
  EXPECT_EQ(share("low_rank_moe:E=16,k=2", 4096, 256), 16);
  EXPECT_EQ(share("low_rank_moe:E=3,k=2", 64, 64), 22);
  EXPECT_EQ(share("low_rank_moe:E=100,k=2", 64, 64), 1);
  // The rank itself, at every width.
  for (const std::int64_t width : {64, 1024}) {
    const Spec spec = parse("btt_moe:E=16,k=2,rho=3");
    EXPECT_EQ(realise(spec, width, width).sizes.rho, 3);
  }
}

TEST(Cost, MixturesTooLargeToCountAreRefused) {
  const std::int64_t d = std::int64_t{1} << 20;
  EXPECT_THROW(
      realise(parse("btt_moe:1,E=4096,k=2,alpha=0"), d, d), base::InvalidInput);
  EXPECT_THROW(
      realise(parse("btt_moe:E=4,k=2,rho=65"), 64, 128), base::InvalidInput);
  EXPECT_NO_THROW(realise(parse("btt_moe:E=4,k=2,rho=64"), 64, 128));
}

TEST(Cost, WideLayersDoNotOverflow) {
  // The largest product of sizes: dense blocks times a full rank.
  const std::int64_t d = std::int64_t{1} << 20;
  const Structure layer = realise(parse("theta:1,0,0,0,1,0,1"), d, d);
  EXPECT_EQ(macs(layer), 2 * d * d);
  EXPECT_EQ(generic_rank(layer), d);
  const Structure blocks = realise(parse("theta:0,0,1,0,0,1,1"), d, d);
  EXPECT_EQ(parameters(blocks) / d / d, 2 * d);
  EXPECT_EQ(generic_rank(blocks), d);
}

TEST(Parametrisation, FollowsTheOrderContracted) {
  // By hand, at d = 1024 and base width 768.
  struct Case {
    const char* text;
    Order order;
    CoreShape a;
    CoreShape b;
  };
  const std::vector<Case> cases = {
      // A: 32 -> 32 in 32 blocks, then B the same
      {"monarch", Order::kAB, {32, 32}, {32, 32}},
      // rank 1024^0.25 = 5.7, so 6
      {"btt:0.25", Order::kAB, {32, 192}, {192, 32}},
      {"low_rank:0.5", Order::kAB, {1024, 32}, {32, 1024}},
      {"kronecker", Order::kAB, {32, 32}, {32, 32}},
      // B first: (beta, epsilon phi rho), then A: (alpha gamma rho, delta)
      {"theta:0,0.5,0.5,0.5,0,0.5,0.2", Order::kBA, {128, 32}, {32, 128}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const Structure layer = realise(parse(c.text), 1024, 1024);
    EXPECT_EQ(cheaper_order(layer.sizes), c.order);
    const auto cores = parametrisation(layer);
    ASSERT_EQ(cores.size(), 2U);
    for (const auto& [core, want] :
         {std::pair{cores[0], c.a}, std::pair{cores[1], c.b}}) {
      EXPECT_EQ(core.shape.d_in, want.d_in);
      EXPECT_EQ(core.shape.d_out, want.d_out);
      const auto in = static_cast<double>(want.d_in);
      const auto out = static_cast<double>(want.d_out);
      EXPECT_NEAR(
          core.init_std, std::sqrt(std::min(in, out) / (in * in)), 1e-12);
      // base * (768 / 1024) * (1024 / d_core) / 2
      EXPECT_NEAR(core.lr_multiplier, (768.0 / 1024) * (1024 / in) / 2, 1e-12);
    }
  }
}

TEST(Parametrisation, ExpertsHaveThatOfALayerOfTheirOwn) {
  const auto same = [](const char* mixture, const char* alone) {
    const auto of = [](const char* text) {
      return parametrisation(realise(parse(text), 1024, 4096));
    };
    const auto cores = of(mixture);
    const auto want = of(alone);
    ASSERT_EQ(cores.size(), want.size());
    for (std::size_t i = 0; i < cores.size(); ++i) {
      EXPECT_EQ(cores[i].shape.d_in, want[i].shape.d_in);
      EXPECT_EQ(cores[i].shape.d_out, want[i].shape.d_out);
      EXPECT_EQ(cores[i].init_std, want[i].init_std);
      EXPECT_EQ(cores[i].lr_multiplier, want[i].lr_multiplier);
    }
  };
  same("btt_moe:E=16,k=2", "btt:0");
  same("low_rank_moe:0.5,E=8,k=2", "low_rank");
  same("dense_moe:E=8,k=2", "dense");
  // A router learns as a dense matrix does.
  EXPECT_EQ(
      router_lr_multiplier(realise(parse("btt_moe:E=16,k=2"), 1536, 64)), 0.5);
}

TEST(Parametrisation, DenseMultiplierIsOneAtTheBaseWidth) {
  const auto at = [](std::int64_t d_in) {
    return parametrisation(realise(parse("dense"), d_in, 3072), 256)[0];
  };
  EXPECT_DOUBLE_EQ(at(256).lr_multiplier, 1);
  EXPECT_DOUBLE_EQ(at(1024).lr_multiplier, 0.25);
  EXPECT_DOUBLE_EQ(at(1024).init_std, 1 / 32.0);
  EXPECT_DOUBLE_EQ(at(4096).init_std, std::sqrt(3072.0) / 4096);
}

}  // namespace
}  // namespace einforge::structure
