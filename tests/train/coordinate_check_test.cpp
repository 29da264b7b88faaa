#include "einforge/train/coordinate_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace einforge::train {
namespace {

CheckOptions options(const std::vector<std::string>& structures) {
  CheckOptions options;
  options.config.model.layers = 1;
  options.config.model.context = 32;
  options.config.model.head_width = 16;
  options.config.data.batch_size = 8;
  options.config.device = "cpu";
  options.structures = structures;
  options.widths = {32, 64, 128};
  options.steps = 6;
  options.seeds = 2;
  return options;
}

std::set<std::string> names(const CheckedStructure& structure) {
  std::set<std::string> names;
  for (const JudgedCoordinate& one : structure.coordinates) {
    names.insert(one.coordinate.layer + " " + one.coordinate.measure);
  }
  return names;
}

const Coordinate& find(
    const CheckedStructure& structure,
    const std::string& layer,
    const std::string& measure) {
  for (const JudgedCoordinate& one : structure.coordinates) {
    if (one.coordinate.layer == layer && one.coordinate.measure == measure) {
      return one.coordinate;
    }
  }
  throw std::out_of_range(layer + " " + measure);
}

// The same code with the wrong learning rates must be told from the right ones.
TEST(CoordinateCheck, TellsRightRatesFromWrongOnes) {
  CheckOptions check = options({"dense", "btt:rank=4"});
  const CheckedModel right = check_coordinates(check);
  check.lr_multipliers = false;
  const CheckedModel wrong = check_coordinates(check);
  for (std::size_t i = 0; i < check.structures.size(); ++i) {
    EXPECT_NE(right.structures[i].verdict, Trend::kGrows)
        << coordinate_table(right);
    EXPECT_EQ(wrong.structures[i].verdict, Trend::kGrows)
        << coordinate_table(wrong);
  }
}

// Every kind of layer is seen, in every family, and each of its matrices.
TEST(CoordinateCheck, SeesAllLayers) {
  CheckOptions check = options(
      {"dense",
       "monarch",
       "low_rank:0.5",
       "btt_moe:E=4,k=2",
       "dense_moe:E=4,k=2",
       "ffn_moe:E=4,k=2",
       "theta:0.25,0.75,0,0.5,0.5,0,0"});
  check.widths = {32, 64};
  check.steps = 1;
  check.seeds = 1;
  const CheckedModel checked = check_coordinates(check);
  for (const CheckedStructure& structure : checked.structures) {
    SCOPED_TRACE(structure.structure);
    const bool ffn_moe = structure.structure.starts_with("ffn_moe");
    const bool moe = structure.structure.find("moe") != std::string::npos;
    const bool dense = structure.structure.starts_with("dense") || ffn_moe;
    const auto found = names(structure);
    for (const std::string layer :
         {"q", "k", "v", "attention_out", "ffn_in", "ffn_out", "head"}) {
      if (ffn_moe && layer.starts_with("ffn")) {
        continue;
      }
      EXPECT_TRUE(found.contains(layer + " size")) << layer;
      EXPECT_TRUE(found.contains(layer + " change")) << layer;
      const bool matrix = dense || layer == "head";
      EXPECT_EQ(found.contains(layer + " effect of weight"), matrix) << layer;
      EXPECT_EQ(found.contains(layer + " effect of core_a"), !matrix) << layer;
      EXPECT_EQ(found.contains(layer + " effect of core_b"), !matrix) << layer;
    }
    EXPECT_EQ(found.contains("ffn size"), ffn_moe);
    EXPECT_EQ(found.contains("ffn effect of out"), ffn_moe);
    EXPECT_EQ(found.contains("ffn.router size"), ffn_moe);
    EXPECT_EQ(found.contains("q.router size"), moe && !ffn_moe);
  }
}

// The head starts at zero: what it gives after a step is what changed, and what
// its matrix has learnt.
TEST(CoordinateCheck, MeasuresAgreeWhereTheyMust) {
  CheckOptions check = options({"dense"});
  check.steps = 1;
  check.seeds = 1;
  CheckedStructure dense = check_coordinates(check).structures[0];
  const auto& size = find(dense, "head", "size").rms[0][0];
  const auto& change = find(dense, "head", "change").rms[0][0];
  const auto& effect = find(dense, "head", "effect of weight").rms[0][0];
  ASSERT_EQ(size.size(), 1U);
  EXPECT_GT(size[0], 0);
  EXPECT_DOUBLE_EQ(change[0], size[0]);
  EXPECT_DOUBLE_EQ(effect[0], size[0]);
  // In the second step the embeddings learn, which q sees; q itself does not,
  // since the attention's output starts at zero as the head does.
  check.steps = 2;
  dense = check_coordinates(check).structures[0];
  EXPECT_GT(find(dense, "q", "change").rms[0][0][0], 0);
  EXPECT_EQ(find(dense, "q", "effect of weight").rms[0][0][0], 0);
  // The last quarter: of 8 steps the 6th, 7th and 8th.
  check.steps = 8;
  dense = check_coordinates(check).structures[0];
  EXPECT_EQ(find(dense, "head", "change").rms[0][0].size(), 3U);
}

TEST(CoordinateCheck, IsReproducible) {
  CheckOptions check = options({"monarch"});
  check.steps = 2;
  check.seeds = 1;
  EXPECT_EQ(
      to_json(check_coordinates(check)), to_json(check_coordinates(check)));
}

TEST(CoordinateCheck, RefusesWhatItCannotCheck) {
  const auto refused = [](auto&& change, const std::string& why) {
    CheckOptions check = options({"dense"});
    change(check);
    try {
      check_coordinates(check);
      ADD_FAILURE() << why;
    } catch (const std::invalid_argument& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(why));
    }
  };
  refused([](auto& c) { c.widths = {64}; }, "--widths");
  refused([](auto& c) { c.widths = {128, 64}; }, "--widths");
  refused([](auto& c) { c.structures = {"dens"}; }, "dens");
  refused([](auto& c) { c.structures = {"btt:rank=400"}; }, "btt:rank=400");
  refused([](auto& c) { c.widths = {32, 50}; }, "model.width");
  refused([](auto& c) { c.config.model.kind = "mlp"; }, "model.kind");
  refused([](auto& c) { c.config.data.path = "/nowhere"; }, "/nowhere");
}

}  // namespace
}  // namespace einforge::train
