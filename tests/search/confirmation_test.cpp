#include "einforge/search/confirmation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <set>

#include "einforge/search/baseline_line.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using ::testing::HasSubstr;

TEST(BaselineLine, GoesThroughWhatNothingBeats) {
  // loss = 8 compute^-0.25, and points above it.
  std::vector<ComputeLoss> points;
  for (const double compute : {1.0, 3.0, 9.0, 27.0}) {
    const double loss = std::log(8) - 0.25 * std::log(compute);
    points.push_back({std::log(compute), loss});
    points.push_back({std::log(compute) + 0.1, loss + 0.3});
  }
  const BaselineLine line = fit_baseline(points);
  EXPECT_NEAR(line.slope, 0.25, 1e-12);
  EXPECT_NEAR(line.offset, std::log(8), 1e-12);
  // Half of what the baseline needs for loss 2, which is 256.
  EXPECT_NEAR(
      line.log_multiplier(std::log(128), std::log(2)), std::log(2), 1e-12);
  EXPECT_EQ(fit_baseline({}).slope, 0.1);
  EXPECT_NEAR(fit_baseline({{1, 1}}).log_multiplier(1, 1), 0, 1e-12);
}

class ConfirmationTest : public ::testing::Test {
 protected:
  ConfirmationTest() {
    config_ = testing::mlp_config(folder_ / "out");
    config_.structures = {"dense", "monarch", "low_rank:0.5"};
    config_.learning_rates = {1e-3, 2e-3};
    config_.confirm = {.top = 1, .seeds = 2};
  }

  // Trains all to the end: dense follows loss = 2 (flops / whole)^-0.2 at 2e-3,
  // monarch needs so many times less compute, and noise comes from the seed.
  static void train(
      const std::vector<Proposal>& proposals,
      Ledger& ledger,
      double noise,
      double less = 2) {
    for (std::size_t i = 0; i < proposals.size(); ++i) {
      store::Trial trial = ledger.trials()[i];
      const double rate = trial.learning_rate == 2e-3 ? 0 : 0.05;
      const double better =
          trial.structure == "monarch" ? 0.2 * std::log(less) : 0.0;
      const double worse = trial.structure == "low_rank:0.5" ? 0.1 : 0.0;
      const double luck = noise * (proposals[i].config.seed % 2 == 0 ? 1 : -1);
      for (const double share : {0.25, 0.5, 1.0}) {
        store::CurvePoint point;
        point.step = std::llround(100 * share);
        point.flops = share * 1e9;
        point.seconds = share;
        point.val_loss = std::exp(
            std::log(2) - 0.2 * std::log(share) - better + worse + rate +
            (trial.structure == "dense" ? 0 : luck));
        ledger.store().append_curve(trial.id, {point});
        trial.final_loss = point.val_loss;
        trial.flops = point.flops;
        trial.seconds = point.seconds;
      }
      trial.rung = 1;
      trial.status = store::Status::kDone;
      ledger.store().update(trial);
      ledger.reload(trial.id);
    }
  }

  Ledger& open(const SearchConfig& config, const std::vector<Proposal>& all) {
    ledger_.reset();
    std::filesystem::create_directories(config.out);
    return ledger_.emplace(config, all, false);
  }

  testing::TemporaryFolder folder_;
  SearchConfig config_;
  std::optional<Ledger> ledger_;
};

TEST_F(ConfirmationTest, TrainsTheBestAgainAndSaysWhatCameOfIt) {
  const std::vector<Proposal> proposals = propose(config_);
  Ledger& ledger = open(config_, proposals);
  EXPECT_TRUE(confirmation(config_, proposals, ledger).proposals.empty());
  train(proposals, ledger, 0);
  const Confirmation again = confirmation(config_, proposals, ledger);
  EXPECT_EQ(again.looked_at, proposals.size());
  // Dense and monarch, two widths, two seeds.
  ASSERT_EQ(again.proposals.size(), 8U);
  EXPECT_EQ(again.proposals[0].trial.structure, "dense");
  EXPECT_EQ(again.proposals[7].trial.structure, "monarch");
  std::set<std::string> ids;
  for (const Proposal& proposal : again.proposals) {
    EXPECT_EQ(proposal.trial.learning_rate, 2e-3);
    EXPECT_GT(proposal.config.seed, 0U);
    EXPECT_TRUE(ids.insert(proposal.trial.id).second);
  }
  EXPECT_EQ(
      again.proposals[2].config.model.width,
      again.proposals[0].config.model.width * 2);
  EXPECT_EQ(again.config.out, (folder_ / "out" / "confirm").string());

  Ledger& second = open(again.config, again.proposals);
  EXPECT_EQ(confirmed(again, second), "");
  train(again.proposals, second, 0.01);
  // By hand: seeds 1 and 2 are 0.01 above and below in ln loss, 0.05 in
  // ln M at the slope 0.2. Squares: 2 widths x 2 seeds x 0.05^2, freedom 4;
  // half = t(4) sqrt(0.01 / 4 (1/4 + 1/4)) = 2.776 x 0.03536 = 0.0981.
  const std::string sentence = confirmed(again, second);
  EXPECT_THAT(
      sentence,
      HasSubstr(
          "monarch reaches the loss of dense with 2 times less compute (95%: "
          "1.81 to 2.21; 4 runs on fresh seeds, widths"));
  // Dense was not trained to such losses.
  EXPECT_THAT(sentence, HasSubstr("; extrapolated: dense ended at loss 2)"));
  EXPECT_THAT(sentence, HasSubstr("best of 12 trials looked at"));
}

TEST_F(ConfirmationTest, SaysWhereTheBestWasLuck) {
  const std::vector<Proposal> proposals = propose(config_);
  Ledger& ledger = open(config_, proposals);
  train(proposals, ledger, 0);
  const Confirmation again = confirmation(config_, proposals, ledger);
  Ledger& second = open(again.config, again.proposals);
  train(again.proposals, second, 0.01, 0.5);
  EXPECT_THAT(
      confirmed(again, second),
      HasSubstr("monarch reaches the loss of dense with 2 times more compute "
                "(95%: 1.81 to 2.21; 4 runs"));
}

}  // namespace
}  // namespace einforge::search
