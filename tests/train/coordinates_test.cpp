#include "einforge/train/coordinates.h"

#include <gtest/gtest.h>

#include <cmath>

namespace einforge::train {
namespace {

const std::vector<std::int64_t> kWidths = {64, 128, 256, 512};

// rms = width^exponent, times e^(+-noise) by turns over widths and seeds.
Coordinate coordinate(double exponent, double noise = 0) {
  Coordinate made{"q", "size", {}};
  int sign = 1;
  for (const std::int64_t width : kWidths) {
    auto& seeds = made.rms.emplace_back();
    for (int seed = 0; seed < 3; ++seed) {
      sign = -sign;
      const double value = std::pow(static_cast<double>(width), exponent) *
                           std::exp(sign * noise);
      // The first half, which does not count, says something else.
      seeds.push_back({7.0 * static_cast<double>(width), value, value});
    }
  }
  return made;
}

Trend verdict(const std::vector<Coordinate>& coordinates) {
  return judge("dense", kWidths, coordinates).verdict;
}

TEST(Coordinates, RecoversAnExponent) {
  for (const double exponent : {-1.0, 0.0, 0.1, 0.5}) {
    const auto judged = judge("dense", kWidths, {coordinate(exponent)});
    ASSERT_TRUE(judged.coordinates[0].exponent.has_value());
    EXPECT_NEAR(judged.coordinates[0].exponent->value, exponent, 1e-12);
  }
}

// y = 1, 2, 4 at x = 1, 2, 3 (base e^x): slope 1.5 / 1 with the residuals
// 1/6, -1/3, 1/6, so that its error is sqrt(1/6 / 1 / 2), times t of one
// degree.
TEST(Coordinates, IntervalIsStudents) {
  const auto log2 = [](double x) { return std::exp2(x); };
  const auto fitted =
      fit_exponent({2, 4, 8}, {{log2(1)}, {log2(2)}, {log2(4)}});
  ASSERT_TRUE(fitted.has_value());
  EXPECT_NEAR(fitted->value, 1.5, 1e-12);
  EXPECT_NEAR(fitted->high - fitted->value, 12.706 * std::sqrt(1.0 / 12), 1e-9);
}

TEST(Coordinates, VerdictFollowsTheWorst) {
  const Coordinate flat = coordinate(0.1);
  EXPECT_EQ(verdict({flat, coordinate(-0.2)}), Trend::kFlat);
  EXPECT_EQ(verdict({flat, coordinate(-0.4)}), Trend::kShrinks);
  EXPECT_EQ(verdict({flat, coordinate(-0.9), coordinate(0.5)}), Trend::kGrows);
  EXPECT_EQ(verdict({flat, coordinate(0, /*noise=*/2)}), Trend::kUndecided);
  const auto judged =
      judge("dense", kWidths, {flat, coordinate(0.5), coordinate(1)});
  EXPECT_EQ(judged.because, 2U);
}

TEST(Coordinates, ZerosShrinkAndNoNumbersDiverge) {
  Coordinate one = coordinate(0);
  for (auto& seeds : one.rms) {
    for (auto& steps : seeds) {
      steps = {0, 0};
    }
  }
  EXPECT_EQ(verdict({one}), Trend::kShrinks);
  one.rms[3][1] = {1, NAN};
  EXPECT_EQ(verdict({one}), Trend::kDiverged);
  // Some zeros are no power law.
  one = coordinate(0);
  one.rms[0][0] = {0, 0, 0};
  EXPECT_EQ(verdict({one}), Trend::kUndecided);
}

TEST(Coordinates, JsonHasNoInfinities) {
  const CheckedModel checked{
      {64, 128},
      {judge("dense", {64, 128}, {{"q", "size", {{{1, 2}}, {{3, NAN}}}}})}};
  const base::Json json = to_json(checked);
  EXPECT_EQ(json["structures"][0]["verdict"], "diverged");
  EXPECT_TRUE(
      json["structures"][0]["coordinates"][0]["rms"][1][0][1].is_null());
  EXPECT_NE(coordinate_table(checked).find("diverged"), std::string::npos);
}

}  // namespace
}  // namespace einforge::train
