#include "einforge/search/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>

#include "einforge/base/error.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

class ExchangeTest : public ::testing::Test {
 protected:
  ExchangeTest() {
    config_ = testing::mlp_config(folder_ / "out");
    config_.scheduler.kind = "asha";
    config_.scheduler.rungs = 2;
    config_.scheduler.eta = 2;
    config_.learning_rates = {1e-3, 2e-3};
  }

  Ledger& open(std::vector<int> targets = {}) {
    ledger_.reset();
    std::filesystem::create_directories(config_.out);
    return ledger_.emplace(config_, proposals_, false, std::move(targets));
  }

  testing::TemporaryFolder folder_;
  SearchConfig config_;
  std::vector<Proposal> proposals_;
  std::optional<Ledger> ledger_;
};

// Another program trains all that the scheduler asks for, the search being
// opened anew for each word.
TEST_F(ExchangeTest, AskAndTellPlayASearch) {
  proposals_ = propose(config_);
  std::map<std::string, int> rungs;
  int told_in_all = 0;
  for (;;) {
    const auto asked = ask(proposals_, open(), 3);
    if (asked.empty()) {
      break;
    }
    // The same again until results are told.
    EXPECT_EQ(ask(proposals_, open(), 3), asked);
    const base::Json& trial = asked.front();
    const auto id = trial["id"].get<std::string>();
    const auto& whole = proposals_[*ledger_->place(id)];
    EXPECT_EQ(trial["rung"], rungs[id]);
    EXPECT_EQ(trial["steps"] == whole.config.steps, trial["rung"] == 1);
    const base::Json answer = tell(
        proposals_,
        open(),
        {{"id", id},
         {"loss", 3 + 100 * trial["learning_rate"].get<double>()},
         {"seconds", 2}});
    EXPECT_EQ(answer["rung"], ++rungs[id]);
    ASSERT_LT(++told_in_all, 100);
  }
  EXPECT_TRUE(open().finished());
  EXPECT_EQ(rungs.size(), proposals_.size());
  int whole = 0;
  for (const auto& [id, rung] : rungs) {
    whole += rung == 2 ? 1 : 0;
  }
  EXPECT_GE(whole, 4);  // half of eight
  const base::Json line = outcome(proposals_.front(), *ledger_);
  EXPECT_EQ(line["curve"][0][2], 2);
}

TEST_F(ExchangeTest, FailuresAndWrongWordsAreToldApart) {
  proposals_ = propose(config_);
  const auto id = ask(proposals_, open(), 1)[0]["id"].get<std::string>();
  EXPECT_EQ(
      tell(proposals_, open(), {{"id", id}, {"failed", "no memory"}})["status"],
      "failed");
  for (const base::Json& bad :
       {base::Json{{"id", id}, {"loss", 1}},  // it has failed
        base::Json{{"id", "nobody"}, {"loss", 1}},
        base::Json{{"loss", 1}},
        base::Json{{"id", id}, {"lose", 1}},
        base::Json::array({1})}) {
    EXPECT_THROW(tell(proposals_, open(), bad), base::InvalidInput) << bad;
  }
  const auto other = ask(proposals_, open(), 1)[0]["id"].get<std::string>();
  EXPECT_NE(other, id);
  EXPECT_THROW(
      tell(proposals_, open(), {{"id", other}, {"loss", -1}}),
      base::InvalidInput);
  EXPECT_THROW(tell(proposals_, open(), {{"id", other}}), base::InvalidInput);
  EXPECT_THROW(
      tell(proposals_, open(), {{"id", other}, {"loss", 1}, {"seconds", -1}}),
      base::InvalidInput);
}

TEST_F(ExchangeTest, ToldProposalsAreTrialsOfTheSearch) {
  std::set<std::string> ids;
  for (const Proposal& proposal : propose(config_)) {
    ids.insert(proposal.trial.id);
  }
  const Told inside = told(
      config_,
      {{"structure", "monarch"}, {"width", 32}, {"learning_rate", 2e-3}});
  EXPECT_TRUE(ids.contains(inside.proposal.trial.id));
  EXPECT_EQ(inside.rungs, 2);
  const Told outside =
      told(config_, {{"structure", "btt:0.1"}, {"width", 64}, {"rungs", 1}});
  EXPECT_FALSE(ids.contains(outside.proposal.trial.id));
  EXPECT_EQ(outside.rungs, 1);
  for (const base::Json& bad :
       {base::Json{{"width", 32}},
        base::Json{{"structure", "mnarch"}},
        base::Json{{"structure", "paper_sweep"}},
        base::Json{{"structure", "dense"}, {"width", "x"}},
        base::Json{{"structure", "dense"}, {"rungs", 3}},
        base::Json{{"structure", "dense"}, {"rungs", 1.5}},
        base::Json{{"structure", "dense"}, {"ffn_in", "monarch"}},  // an MLP
        base::Json{{"structure", "dense"}, {"height", 3}}}) {
    EXPECT_THROW(told(config_, bad), base::InvalidInput) << bad;
  }

  // To the first rung, and later to the second.
  proposals_ = {outside.proposal};
  Ledger& first = open({1});
  const std::string id = *first.take();
  tell(proposals_, first, {{"id", id}, {"loss", 2}});
  EXPECT_TRUE(first.finished());
  EXPECT_TRUE(first.over(0));
  Ledger& second = open({2});
  EXPECT_FALSE(second.finished());
  EXPECT_EQ(second.take(), id);
}

// Kinds of layers with structures of their own, as [space] makes them.
TEST_F(ExchangeTest, ToldKindsOfLayers) {
  config_ = testing::tiny_config(testing::make_data(folder_), folder_ / "gpt");
  config_.structures = {"dense"};
  config_.space.ffn_in = {"monarch", "low_rank:0.5"};
  config_.space.ffn_out = {"tied"};
  std::set<std::string> ids;
  for (const Proposal& proposal : propose(config_)) {
    ids.insert(proposal.trial.id);
  }
  const base::Json line = {
      {"structure", "dense"},
      {"ffn_in", "monarch"},
      {"ffn_out", "tied"},
      {"width", 32}};
  const Told inside = told(config_, line);
  EXPECT_EQ(inside.proposal.trial.structure, "ffn_in=monarch ffn_out=monarch");
  EXPECT_TRUE(ids.contains(inside.proposal.trial.id));
  for (const auto& [key, value] :
       {std::pair("ffn_in", "btt: rho 0..0.5"), std::pair("qkv", "tied")}) {
    base::Json bad = line;
    bad[key] = value;
    EXPECT_THROW(told(config_, bad), base::InvalidInput) << bad;
  }
}

}  // namespace
}  // namespace einforge::search
