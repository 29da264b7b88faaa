#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

constexpr double kExact = 1e-12;

// The table of docs/structures.md, by hand.
TEST(Taxonomy, OfNamedStructures) {
  struct Row {
    const char* text;
    Theta theta;
    double omega;
    double psi;
    double nu;
  };
  constexpr double kThird = 1.0 / 3;
  const std::vector<Row> rows = {
      {"dense", {1, 0, 0, 0, 1, 0, 1}, 0, 1, 1},
      {"low_rank:0.5", {1, 0, 0, 0, 1, 0, 0.5}, 0, 0.5, 0.5},
      {"low_rank:0.75", {1, 0, 0, 0, 1, 0, 0.75}, 0, 0.75, 0.75},
      {"kronecker", {0.5, 0.5, 0, 0.5, 0.5, 0, 0}, 0.5, 1, 0.5},
      {"tensor_train:0.25", {0.5, 0.5, 0, 0.5, 0.5, 0, 0.25}, 0.5, 1, 0.75},
      {"tensor_train:0.25,alpha=1/3",
       {kThird, 2 * kThird, 0, kThird, 2 * kThird, 0, 0.25},
       kThird,
       1,
       1.25 - kThird},
      {"monarch", {0.5, 0, 0.5, 0, 0.5, 0.5, 0}, 0, 1, 0.5},
      {"btt:0.25", {0.5, 0, 0.5, 0, 0.5, 0.5, 0.25}, 0, 1, 0.75},
      {"btt:0,alpha=0.75,epsilon=0.75",
       {0.75, 0, 0.25, 0, 0.75, 0.25, 0},
       0,
       0.5,
       0.25},
      {"theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25",
       {0.5, 0.25, 0.25, 0.25, 0.5, 0.25, 0.25},
       0.25,
       1,
       0.75},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    const Spec spec = parse(row.text);
    for (std::size_t i = 0; i < 7; ++i) {
      EXPECT_NEAR(spec.theta.values()[i], row.theta.values()[i], kExact);
    }
    const Taxonomy got = taxonomy(spec.theta);
    EXPECT_NEAR(got.omega, row.omega, kExact);
    EXPECT_NEAR(got.psi, row.psi, kExact);
    EXPECT_NEAR(got.nu, row.nu, kExact);
    EXPECT_FALSE(degenerate(spec.theta));
  }
}

TEST(Taxonomy, ExchangingTheCoresChangesNothing) {
  base::Random random(1);
  for (int i = 0; i < 500; ++i) {
    const Theta t = sample(random);
    const Taxonomy a = taxonomy(t);
    const Theta exchanged = {
        t.beta, t.alpha, t.gamma, t.epsilon, t.delta, t.phi, t.rho};
    const Taxonomy b = taxonomy(exchanged);
    EXPECT_NEAR(a.omega, b.omega, kExact);
    EXPECT_NEAR(a.psi, b.psi, kExact);
    EXPECT_NEAR(a.nu, b.nu, kExact);
    EXPECT_FALSE(degenerate(exchanged));
  }
}

// At d = 2^16 the exponents k/4 give exact sizes, and only the sum of two
// equal terms, a factor of at most 2, parts realised from asymptotic.
TEST(Taxonomy, RealisedTendsToAsymptotic) {
  const std::int64_t d = 1 << 16;
  const double slack = std::log(2.0) / std::log(static_cast<double>(d)) + 1e-9;
  for (const Theta& theta : grid(4)) {
    SCOPED_TRACE(to_spec(theta).text);
    const Structure layer = realise(to_spec(theta), d, d);
    const Taxonomy want = taxonomy(theta);
    const Taxonomy got = taxonomy(layer);
    EXPECT_NEAR(got.omega, want.omega, slack);
    EXPECT_NEAR(got.psi, want.psi, slack);
    EXPECT_NEAR(got.nu, want.nu, slack);
    for (std::size_t i = 0; i < 7; ++i) {
      EXPECT_NEAR(realised_theta(layer).values()[i], theta.values()[i], kExact);
    }
  }
}

TEST(Taxonomy, StaysInItsRanges) {
  base::Random random(2);
  for (int i = 0; i < 2000; ++i) {
    const Theta theta = sample(random);
    const Taxonomy t = taxonomy(theta);
    EXPECT_GE(t.omega, 0);
    EXPECT_LE(t.omega, 1);
    EXPECT_GE(t.psi, 0);
    EXPECT_LE(t.psi, 1);
    EXPECT_GE(t.nu, 0);
    EXPECT_LE(t.nu, 1 + kExact);  // not degenerate: never above dense
  }
}

TEST(Degenerate, CostsMoreThanDense) {
  EXPECT_TRUE(degenerate({0.5, 0, 0.5, 0, 0.5, 0.5, 0.75}));
  EXPECT_FALSE(degenerate({0.5, 0, 0.5, 0, 0.5, 0.5, 0.5}));
  EXPECT_TRUE(degenerate({0, 0, 1, 0, 0, 1, 0.1}));
  EXPECT_FALSE(degenerate({0, 0, 1, 0, 0, 1, 0}));
  // min(t_alpha, t_epsilon) = 0, but the other order allows 0.5.
  EXPECT_FALSE(degenerate({0, 0.5, 0.5, 0.5, 0, 0.5, 0.5}));
  // Thirds: equal but for rounding.
  EXPECT_FALSE(
      degenerate({1.0 / 3, 0, 2.0 / 3, 0, 2.0 / 3, 1.0 / 3, 1 - 2.0 / 3}));
}

TEST(PaperSweep, Has23InOrder) {
  const std::vector<Theta>& sweep = paper_sweep();
  ASSERT_EQ(sweep.size(), 23U);
  std::vector<std::string> names;
  for (const Theta& theta : sweep) {
    validate(theta);
    EXPECT_FALSE(degenerate(theta));
    names.push_back(to_spec(theta).text);
  }
  const std::vector<std::string> want = {
      "monarch",
      "btt:0,alpha=1/3",
      "btt:0,alpha=0.25",
      "btt:0,alpha=2/3",
      "btt:0,alpha=0.75",
      "btt:0,alpha=2/3,epsilon=2/3",
      "btt:0,alpha=1/3,epsilon=1/3",
      "btt:0,alpha=0.75,epsilon=0.75",
      "btt:0,alpha=0.25,epsilon=0.25",
      "btt:0.25",
      "btt:1/3",
      "btt:0.25,alpha=1/3",
      "btt:0.25,alpha=2/3",
      "btt:0.25,alpha=2/3,epsilon=2/3",
      "btt:0.25,alpha=1/3,epsilon=1/3",
      "kronecker",
      "tensor_train:0.25",
      "kronecker:alpha=1/3",
      "tensor_train:0.25,alpha=1/3",
      "low_rank:0.75",
      "low_rank:0.5",
      "theta:0.5,0.25,0.25,0.25,0.5,0.25,0",
      "theta:0.5,0.25,0.25,0.25,0.5,0.25,0.25"};
  EXPECT_EQ(names, want);
}

TEST(Grid, IsTheNonDegenerateSpaceOnceEach) {
  // One step: theta is a corner. 3 x 3 corners; those with rho = 1 need
  // min(t_alpha, t_epsilon) = 1 or min(t_beta, t_delta) = 1, the same point
  // but for the names. The 9 corners with rho = 0 pair up under the exchange,
  // but for (gamma, phi): (9 + 1) / 2.
  EXPECT_EQ(grid(1).size(), 1U + 5U);
  const std::vector<Theta> points = grid(4);
  for (std::size_t i = 0; i < points.size(); ++i) {
    const Theta& t = points[i];
    validate(t);
    EXPECT_FALSE(degenerate(t));
    const Theta exchanged = {
        t.beta, t.alpha, t.gamma, t.epsilon, t.delta, t.phi, t.rho};
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_NE(points[j], t);
      EXPECT_NE(points[j], exchanged);
    }
  }
  for (const char* text :
       {"monarch", "btt:0.25", "kronecker", "low_rank:0.75"}) {
    const Theta theta = parse(text).theta;
    EXPECT_NE(std::find(points.begin(), points.end(), theta), points.end())
        << text;
  }
  EXPECT_THROW(grid(0), std::invalid_argument);
  EXPECT_THROW(grid(17), std::invalid_argument);
}

TEST(Sample, CoversFacesAndTheInside) {
  base::Random random(3);
  int inside = 0;
  int without_sharing = 0;
  int rank_one = 0;
  constexpr int kDraws = 4000;
  for (int i = 0; i < kDraws; ++i) {
    const Theta theta = sample(random);
    validate(theta);
    EXPECT_FALSE(degenerate(theta));
    const auto values = theta.values();
    inside += *std::min_element(values.begin(), values.end()) > 0;
    without_sharing += taxonomy(theta).omega == 0;
    rank_one += theta.rho == 0;
  }
  EXPECT_GT(inside, kDraws / 500);
  EXPECT_GT(without_sharing, kDraws / 10);
  EXPECT_GT(rank_one, kDraws / 4);
  EXPECT_LT(rank_one, kDraws * 19 / 20);
}

TEST(Sample, RepeatsForASeed) {
  base::Random a(7);
  base::Random b(7);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(sample(a), sample(b));
  }
}

}  // namespace
}  // namespace einforge::structure
