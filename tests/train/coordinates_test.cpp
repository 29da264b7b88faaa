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
      seeds.push_back({value, value});
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
  EXPECT_NEAR(fitted->value - fitted->low90, 6.314 * std::sqrt(1.0 / 12), 1e-9);
}

TEST(Coordinates, VerdictFollowsTheWorst) {
  const auto of = [](const std::string& layer, double exponent, double noise) {
    Coordinate made = coordinate(exponent, noise);
    made.layer = layer;
    return made;
  };
  const Coordinate flat = of("q", 0.1, 0);
  EXPECT_EQ(verdict({flat, of("head", -0.2, 0)}), Trend::kFlat);
  EXPECT_EQ(verdict({flat, of("head", -0.3, 0)}), Trend::kShrinks);
  EXPECT_EQ(
      verdict({flat, of("head", -0.9, 0), of("q.router", 0.3, 0)}),
      Trend::kGrows);
  Coordinate noisy = of("head", 0, /*noise=*/2);
  EXPECT_EQ(verdict({flat, noisy}), Trend::kUndecided);
  noisy.measure = "change";
  EXPECT_EQ(verdict({flat, noisy}), Trend::kFlat);
  noisy = of("head", 0.5, 0);
  noisy.measure = "change";
  EXPECT_EQ(verdict({flat, noisy}), Trend::kGrows);
  EXPECT_EQ(
      judge("dense", kWidths, {flat, of("head", 0.5, 0)}).because,
      "head size, width^+0.50 (+0.50 to +0.50)");
}

// Layers are pooled by the geometric mean: 0.4 and 0 are 0.2, which is flat,
// 0.4 and 0.2 are 0.3. One that is beyond a half by itself is seen all the
// same.
TEST(Coordinates, LayersArePooled) {
  Coordinate k = coordinate(0);
  k.layer = "k";
  const auto judged = judge("dense", kWidths, {coordinate(0.4), k});
  ASSERT_EQ(judged.pooled.size(), 1U);
  EXPECT_NEAR(judged.pooled[0].exponent.value, 0.2, 1e-12);
  EXPECT_NEAR(judged.pooled[0].rms[3], std::pow(512, 0.2), 1e-9);
  EXPECT_EQ(judged.verdict, Trend::kFlat);
  EXPECT_EQ(verdict({coordinate(0.4), coordinate(0.2)}), Trend::kGrows);
  EXPECT_EQ(verdict({coordinate(0.6), coordinate(-0.3)}), Trend::kGrows);
  // Noise that one of two layers has is halved.
  EXPECT_EQ(verdict({coordinate(0, 0.3)}), Trend::kUndecided);
  EXPECT_EQ(verdict({coordinate(0, 0.3), k}), Trend::kFlat);
}

// Steps that are zero, as of an expert that nobody chose, lower the RMS.
TEST(Coordinates, StepsMayBeZero) {
  Coordinate one = coordinate(0.1);
  for (auto& seeds : one.rms) {
    for (auto& steps : seeds) {
      steps[0] = 0;
    }
  }
  const auto judged = judge("dense", kWidths, {one});
  EXPECT_EQ(judged.verdict, Trend::kFlat);
  EXPECT_NEAR(judged.pooled[0].rms[0], std::pow(64, 0.1) / std::sqrt(2), 1e-9);
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
