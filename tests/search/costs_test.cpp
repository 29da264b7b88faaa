#include "einforge/search/costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "einforge/base/error.h"
#include "einforge/train/summary.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

class Costs : public ::testing::Test {
 protected:
  const Proposal& find(const std::string& structure, int width) {
    for (const Proposal& proposal : proposals_) {
      if (proposal.trial.structure == structure &&
          proposal.config.model.width == width) {
        return proposal;
      }
    }
    ADD_FAILURE() << structure;
    return proposals_.front();
  }

  TemporaryFolder folder_;
  SearchConfig config_ =
      testing::tiny_config(testing::make_data(folder_), folder_ / "out");
  std::vector<Proposal> proposals_ = [this] {
    config_.structures = {"dense", "monarch", "ffn_moe:E=4,k=2"};
    return propose(config_);
  }();
};

TEST_F(Costs, MemoryIsThatOfParametersAndWhatBackwardKeeps) {
  // By hand, of dense at width 16: one block, FFN of 64, 64 tokens.
  const Proposal& dense = find("dense", 16);
  const auto vocabulary =
      static_cast<double>(train::task_shape(dense.config).outputs);
  const double kept = 16 + 3 * 16          // q reads for k and v
                      + 16 + 16            // attention_out
                      + 16 + 64 + 64 + 16  // FFN
                      + 16                 // head
                      + 2 * 16             // the stream
                      + 4 * vocabulary;    // the loss
  EXPECT_EQ(
      estimated_memory(dense),
      16.0 * static_cast<double>(dense.parameters) + 4 * 64 * kept);
  EXPECT_EQ(
      estimated_memory(dense, 4),
      16.0 * static_cast<double>(dense.parameters) + 4 * 16 * kept);
  EXPECT_LT(estimated_memory(find("monarch", 16)), estimated_memory(dense));
}

TEST_F(Costs, DecodingIsTheSumOfTheLayers) {
  const std::vector<DecodeLayer> layers = decode_layers(find("dense", 16));
  std::map<std::string, double> times;
  double count = 0;
  for (const DecodeLayer& part : layers) {
    times[part.key] = 0.5;
    count += part.count;
  }
  EXPECT_EQ(count, 7);          // q, k, v, attention_out, ffn_in, ffn_out, head
  EXPECT_EQ(times.size(), 4U);  // as many shapes
  EXPECT_EQ(decode_milliseconds(find("dense", 16), times), 3.5);
  EXPECT_TRUE(std::isnan(decode_milliseconds(find("dense", 32), times)));
  // Both matrices of the mixture are one.
  count = 0;
  for (const DecodeLayer& part : decode_layers(find("ffn_moe:E=4,k=2", 16))) {
    count += part.count;
  }
  EXPECT_EQ(count, 6);
}

CostTable table(const std::vector<Proposal>& proposals) {
  CostTable costs;
  for (const Proposal& proposal : proposals) {
    const double width = static_cast<double>(proposal.config.model.width);
    costs[kind_of(proposal)] = {1e6 * width, width / 10};
  }
  return costs;
}

TEST_F(Costs, ConstraintsLeaveTrialsOut) {
  config_.constraints = {"memory <= 20 MB", "decode_ms <= 100"};
  EXPECT_EQ(
      apply_constraints(config_, table(proposals_), proposals_),
      "3 of 6 trials were not trained: memory <= 20 MB leaves out 3, "
      "decode_ms <= 100 leaves out 0.");
  ASSERT_EQ(proposals_.size(), 3U);
  for (const Proposal& proposal : proposals_) {
    EXPECT_EQ(proposal.config.model.width, 16);
  }
}

TEST_F(Costs, ConstraintsThatLeaveNothingSayTheLeast) {
  config_.constraints = {"decode_ms <= 1.5"};
  try {
    apply_constraints(config_, table(proposals_), proposals_);
    FAIL();
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(
        error.what(),
        HasSubstr(
            "no trial of the search keeps decode_ms <= 1.5 (the least is 1.6 "
            "ms, of "));
  }
}

TEST_F(Costs, AreInTheStore) {
  store::Store store = store::Store::open(folder_ / "trials.db");
  EXPECT_TRUE(read_costs(store).empty());
  write_costs(store, {{"a", {1e9, NAN}}, {"b", {NAN, 0.25}}});
  write_layer_times(store, {{"dense 8x8", 0.125}});
  const CostTable costs = read_costs(store);
  EXPECT_EQ(costs.at("a").memory, 1e9);
  EXPECT_TRUE(std::isnan(costs.at("a").decode_ms));
  EXPECT_EQ(costs.at("b").decode_ms, 0.25);
  EXPECT_EQ(read_layer_times(store).at("dense 8x8"), 0.125);
}

TEST_F(Costs, AreWeighedWhereObjectivesOrConstraintsNameThem) {
  EXPECT_FALSE(weighs(config_, Cost::kMemory));
  config_.constraints = {"memory <= 1 GB"};
  EXPECT_TRUE(weighs(config_, Cost::kMemory));
  EXPECT_FALSE(weighs(config_, Cost::kDecodeMs));
  config_.objective = "flops, decode_ms";
  EXPECT_TRUE(weighs(config_, Cost::kDecodeMs));
}

}  // namespace
}  // namespace einforge::search
