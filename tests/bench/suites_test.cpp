#include "einforge/bench/suites.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "einforge/base/error.h"

namespace einforge::bench {
namespace {

using Values = std::array<std::int64_t, 7>;

TEST(Suites, LayersOnCudaAreThoseOfTheClaims) {
  const auto cases = layer_cases({.name = "layers"}, /*cuda=*/true);
  // alpha, beta, gamma, delta, epsilon, phi, rho
  const std::vector<Values> expected{
      {64, 1, 64, 1, 64, 64, 1},
      {32, 1, 64, 1, 64, 32, 1},
      {32, 1, 32, 1, 32, 32, 1},
      {32, 1, 32, 1, 64, 64, 1},
      {64, 1, 64, 1, 32, 32, 1},
      {64, 1, 64, 1, 64, 64, 4},
      {32, 1, 32, 1, 32, 32, 4}};
  ASSERT_EQ(cases.size(), expected.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(cases[i].layer.sizes.values(), expected[i]) << i;
    EXPECT_EQ(cases[i].tokens, 32768);
    EXPECT_EQ(cases[i].passes.size(), 2);
    EXPECT_TRUE(cases[i].implementations.empty());
  }
}

TEST(Suites, PaperHasAllPointsAtThreeWidths) {
  const auto cases = layer_cases({.name = "paper"}, /*cuda=*/true);
  std::map<std::int64_t, std::set<std::string>> structures;
  std::map<std::int64_t, int> with_einsum;
  for (const LayerCase& which : cases) {
    EXPECT_EQ(which.layer.d_in, which.layer.d_out);
    structures[which.layer.d_in].insert(which.layer.spec.text);
    const auto& names = which.implementations;
    EXPECT_EQ(names.front(), "dense");
    with_einsum[which.layer.d_in] += names.back() == "einsum" ? 1 : 0;
  }
  ASSERT_EQ(structures.size(), 3);
  for (const std::int64_t width : {1024, 2048, 4096}) {
    EXPECT_EQ(structures[width].size(), 23) << width;
    EXPECT_EQ(with_einsum[width], 8) << width;  // the others are of BTT
  }
}

TEST(Suites, DecodeIsForwardOfFewTokens) {
  const auto cases = layer_cases({.name = "decode"}, /*cuda=*/false);
  EXPECT_EQ(cases.size(), 3 * 7);
  for (const LayerCase& which : cases) {
    EXPECT_EQ(which.passes, std::vector{Pass::kForward});
    EXPECT_LE(which.tokens, 64);
  }
}

TEST(Suites, MoeHasThreeRoutingsOfEachWidthAndOneFeedForwardNetwork) {
  const auto cases = layer_cases({.name = "moe"}, /*cuda=*/true);
  ASSERT_EQ(cases.size(), 3 * 3 + 1);
  EXPECT_EQ(cases[0].routing, "uniform");
  EXPECT_EQ(cases[1].routing, "zipf");
  EXPECT_EQ(cases[2].routing, "one_expert");
  EXPECT_EQ(cases[8].layer.d_in, 4096);
  EXPECT_EQ(cases[8].layer.spec.mixture->experts, 16);
  EXPECT_EQ(cases[8].layer.sizes.values(), (Values{64, 1, 64, 1, 64, 64, 1}));
  EXPECT_EQ(cases[9].layer.spec.family, "ffn_moe");
  EXPECT_EQ(cases[9].layer.d_out, 4096);
}

TEST(Suites, CoverageHasEveryShapeByEveryStructureAndMixtures) {
  const auto cases = layer_cases({.name = "coverage"}, /*cuda=*/true);
  std::map<std::string, std::set<std::pair<std::int64_t, std::int64_t>>> shapes;
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> mixtures;
  for (const LayerCase& which : cases) {
    EXPECT_EQ(which.tokens, 16384);
    EXPECT_EQ(
        which.implementations, (std::vector<std::string>{"dense", "einforge"}));
    EXPECT_EQ(which.passes.size(), 2);
    shapes[which.layer.spec.text].emplace(which.layer.d_in, which.layer.d_out);
    if (which.layer.spec.mixture) {
      mixtures.emplace(
          which.layer.d_in,
          which.layer.spec.mixture->experts,
          which.layer.spec.mixture->active);
    }
  }
  for (const char* text :
       {"monarch",
        "btt:0.25",
        "kronecker",
        "tensor_train:0.25",
        "low_rank:0.5",
        "btt_moe:E=16,k=2",
        "btt_moe:E=8,k=2"}) {
    EXPECT_GE(shapes[text].size(), 31U + 10U) << text;
  }
  for (const std::int64_t width : {1024, 2048}) {
    for (const std::int64_t experts : {4, 8, 16, 32, 64, 128}) {
      for (const std::int64_t active : {1, 2, 4, 8}) {
        EXPECT_EQ(
            mixtures.contains({width, experts, active}), active <= experts)
            << width << " " << experts << " " << active;
      }
    }
  }
}

TEST(Suites, WidthsAreOfGptsAndNoPowersOfTwo) {
  const auto cases = layer_cases({.name = "widths"}, /*cuda=*/true);
  ASSERT_EQ(cases.size(), 2 * 8);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const bool mixture = cases[i].layer.spec.mixture.has_value();
    EXPECT_EQ(mixture, i % 2 == 1) << i;
    EXPECT_NE(cases[i].layer.d_in & (cases[i].layer.d_in - 1), 0) << i;
    EXPECT_EQ(cases[i].routing, "uniform") << i;
  }
  EXPECT_EQ(cases[2].layer.sizes.values(), (Values{24, 1, 32, 1, 32, 24, 1}));
  EXPECT_EQ(cases[5].layer.d_out, 3072);
}

TEST(Suites, TakeWhatIsGivenInPlaceOfTheirOwn) {
  const auto widths =
      layer_cases({.name = "paper", .widths = {{64, 256}}}, /*cuda=*/true);
  EXPECT_EQ(widths.size(), 23);
  EXPECT_EQ(widths.front().layer.d_out, 256);
  const auto structures = layer_cases(
      {.name = "decode", .structures = {"low_rank:0.5"}, .tokens = {3, 5}},
      /*cuda=*/true);
  ASSERT_EQ(structures.size(), 3 * 2);
  EXPECT_EQ(structures[1].layer.spec.family, "low_rank");
  EXPECT_EQ(structures[1].tokens, 5);
}

TEST(Suites, RefuseWhatMakesNoLayer) {
  EXPECT_THROW(layer_cases({.name = "layer"}, false), base::InvalidInput);
  EXPECT_THROW(
      layer_cases({.structures = {"monrach"}}, false), base::InvalidInput);
  EXPECT_THROW(
      layer_cases({.widths = {{1009, 1009}}}, false), base::InvalidInput);
}

}  // namespace
}  // namespace einforge::bench
