#include "einforge/search/space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "einforge/base/error.h"
#include "einforge/search/choices.h"
#include "einforge/search/families.h"
#include "einforge/search/identity.h"
#include "einforge/structure/structure.h"
#include "tests/search/promises.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SpaceTest : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  std::string data_ = testing::make_data(folder_);
  SearchConfig config_ = testing::tiny_config(data_, folder_ / "out");
};

TEST_F(SpaceTest, GridIsTheProductOfTheAxes) {
  config_.learning_rates = {1e-3, 2e-3, 4e-3};
  config_.seeds = {0, 1};
  config_.layers = {1, 2};
  const std::vector<Proposal> proposals = propose(config_);
  EXPECT_EQ(proposals.size(), 2U * 2 * 3 * 2 * 2);
  std::set<std::string> ids;
  for (const Proposal& proposal : proposals) {
    ids.insert(proposal.trial.id);
  }
  EXPECT_EQ(ids.size(), proposals.size());
}

TEST_F(SpaceTest, MixturesAreStructuresCountedByWhatTheyDo) {
  config_.widths = {64};
  config_.structures = {
      "dense", "btt-moe:E=8", "dense_moe:E=4,k=2", "ffn_moe:E=4"};
  std::map<std::string, Proposal> found;
  for (const Proposal& proposal : propose(config_)) {
    EXPECT_EQ(proposal.trial.status, store::Status::kQueued)
        << proposal.trial.reason;
    found[proposal.trial.structure] = proposal;
  }
  ASSERT_EQ(found.size(), 4U);
  const Proposal& dense = found.at("dense");
  // Per token, forward + backward, of what is not a linear layer of a block.
  const auto per_token = [](const Proposal& p) {
    return p.flops / static_cast<double>(p.tokens);
  };
  // By hand: 4 square layers and two of 4 times the size, 12 d^2; two experts
  // do that twice; routers d E for 5 layers and 4 d E for the last.
  const double extra = 6.0 * (12 * 64 * 64 + (5 + 4) * 64 * 4);
  EXPECT_NEAR(
      per_token(found.at("dense_moe:E=4,k=2")), per_token(dense) + extra, 1);
  EXPECT_NEAR(
      per_token(found.at("ffn_moe:E=4,k=2")),
      per_token(dense) + 6.0 * (8 * 64 * 64 + 64 * 4),
      1);
  EXPECT_LT(per_token(found.at("btt_moe:E=8,k=2")), per_token(dense));
  EXPECT_LT(found.at("btt_moe:E=8,k=2").trial.taxonomy["omega"], 0);
}

TEST_F(SpaceTest, AStructureMayNameItsOwnLearningRate) {
  config_.widths = {16};
  config_.structures = {"dense", "btt-moe:E=4@2e-3", "btt_moe:E=4,k=2@0.002"};
  config_.learning_rates = {1e-3, 4e-3};
  const auto rates = [&](std::string_view structure) {
    std::vector<double> found;
    for (const Proposal& proposal : propose(config_)) {
      if (proposal.trial.structure == structure) {
        EXPECT_EQ(
            proposal.trial.learning_rate,
            proposal.config.optimizer.learning_rate);
        found.push_back(proposal.trial.learning_rate);
      }
    }
    return found;
  };
  EXPECT_THAT(rates("dense"), ElementsAre(1e-3, 4e-3));
  EXPECT_THAT(rates("btt_moe:E=4,k=2"), ElementsAre(2e-3));
  config_.scheduler.kind = "random";
  config_.scheduler.trials = 4;
  EXPECT_THAT(rates("btt_moe:E=4,k=2"), ElementsAre(2e-3));
  for (const char* wrong : {"dense@", "dense@0", "dense@x", "dense@-1"}) {
    config_.structures = {wrong};
    EXPECT_THROW(propose(config_), base::InvalidInput) << wrong;
  }
}

TEST_F(SpaceTest, SettingsOfMixturesAreNoPartOfOtherTrials) {
  train::TrainConfig config;
  train::TrainConfig other = config;
  other.model.moe.router.z_weight = 1;
  EXPECT_EQ(trial_id(config), trial_id(other));
  for (train::TrainConfig* c : {&config, &other}) {
    c->model.structure.v = "btt_moe:E=4";
  }
  EXPECT_NE(trial_id(config), trial_id(other));
}

TEST_F(SpaceTest, CheapestFirstForOneWorkerMostExpensiveForMore) {
  const auto flops = [](const std::vector<Proposal>& proposals) {
    std::vector<double> values;
    for (const Proposal& proposal : proposals) {
      values.push_back(proposal.flops);
    }
    return values;
  };
  const auto one = flops(propose(config_));
  config_.workers = 2;
  const auto two = flops(propose(config_));
  EXPECT_TRUE(std::is_sorted(one.begin(), one.end()));
  EXPECT_TRUE(std::is_sorted(two.rbegin(), two.rend()));
}

// Batch 4, context 16: 64 tokens a step.
TEST_F(SpaceTest, BudgetsBecomeSteps) {
  config_.structures = {"dense"};
  config_.widths = {16};
  config_.budget = {.tokens = 6400};
  config_.curve_points = 20;
  config_.warmup_share = 0.1;
  const Proposal tokens = propose(config_).front();
  EXPECT_EQ(tokens.config.steps, 100);
  EXPECT_EQ(tokens.config.eval_every, 5);
  EXPECT_EQ(tokens.config.schedule.warmup_steps, 10);
  EXPECT_EQ(tokens.tokens, 6400);

  config_.budget = {.flops = tokens.flops / 4};
  EXPECT_EQ(propose(config_).front().config.steps, 25);

  config_.budget = {.tokens_per_parameter = 0.5};
  const Proposal chinchilla = propose(config_).front();
  EXPECT_NEAR(
      static_cast<double>(chinchilla.tokens),
      0.5 * static_cast<double>(chinchilla.parameters),
      32);

  config_.budget = {.tokens = 1};
  EXPECT_EQ(propose(config_).front().config.steps, 1);
}

TEST_F(SpaceTest, AWarmUpThatIsGivenStays) {
  config_.train.schedule.warmup_steps = 3;
  EXPECT_EQ(propose(config_).front().config.schedule.warmup_steps, 3);
}

TEST_F(SpaceTest, IdsIgnoreWhatDoesNotChangeTheResult) {
  testing::promise("The id of a trial is the hash of what decides its result.");
  testing::promise(
      "Where the data lie, the device and how often checkpoints and logs are "
      "written are no part of it.");
  const train::TrainConfig config = propose(config_).front().config;
  train::TrainConfig same = config;
  same.data.path = "elsewhere";
  same.device = "cuda:1";
  same.checkpoint_every = 12345;
  same.keep_checkpoints = 9;
  same.log_every = 77;
  EXPECT_EQ(trial_id(config), trial_id(same));
  for (const auto& change : std::vector<void (*)(train::TrainConfig&)>{
           [](auto& c) { c.seed = 7; },
           [](auto& c) { c.optimizer.learning_rate *= 2; },
           [](auto& c) { c.model.width *= 2; },
           [](auto& c) { c.model.structure.all = "btt:0.25"; },
           [](auto& c) { c.steps += 1; },
           [](auto& c) { c.data.batch_size += 1; }}) {
    train::TrainConfig other = config;
    change(other);
    EXPECT_NE(trial_id(config), trial_id(other));
  }
}

TEST_F(SpaceTest, SpellingAndRepetitionMakeNoTrial) {
  config_.structures = {"dense", "dense", "monarch"};
  config_.widths = {16, 16, 32};
  EXPECT_EQ(propose(config_).size(), 4U);
}

// Monarch is one of the paper's thetas.
TEST_F(SpaceTest, StructuresThatMakeTheSameModelsAreOne) {
  config_.structures = {"paper_sweep"};
  const std::vector<Proposal> sweep = propose(config_);
  config_.structures = {"monarch", "paper_sweep"};
  const std::vector<Proposal> both = propose(config_);
  EXPECT_EQ(both.size(), sweep.size());
  int aliased = 0;
  for (const Proposal& proposal : both) {
    if (proposal.trial.structure == "monarch") {
      ASSERT_EQ(proposal.aliases.size(), 1U);
      EXPECT_THAT(proposal.aliases[0], HasSubstr("theta:0.5,0,0.5"));
      ++aliased;
    }
  }
  EXPECT_EQ(aliased, 2);  // two widths
}

// As are rank exponents that round to the same rank.
TEST_F(SpaceTest, StructuresOfTheSameSizesAreOneAtTheseSizesAlone) {
  config_.structures = {"btt:0.25", "btt:0.26"};
  config_.widths = {16};
  EXPECT_EQ(propose(config_).size(), 1U);
  config_.structures = {"low_rank:0.5", "low_rank:0.52"};
  config_.widths = {16};
  EXPECT_EQ(propose(config_).size(), 1U);
  // At one of the widths their sizes differ: both are trained at all.
  config_.train.model.head_width = 1;
  config_.widths = {16, 4096};
  EXPECT_EQ(propose(config_).size(), 4U);
  // Learning rates of their own make them two.
  config_.widths = {16};
  config_.structures = {"low_rank:0.5@1e-3", "low_rank:0.52@2e-3"};
  EXPECT_EQ(propose(config_).size(), 2U);
  // The FFN mixture is no mixture of matrices of the same sizes.
  config_.structures = {"ffn_moe:E=4,k=2", "dense_moe:E=4,k=2"};
  EXPECT_EQ(propose(config_).size(), 2U);
}

TEST_F(SpaceTest, ABudgetBeyondCountingIsAnError) {
  for (const double tokens : {1e19, 1e30, 1e308}) {
    config_.budget.tokens = tokens;
    EXPECT_THROW(propose(config_), base::InvalidInput) << tokens;
  }
}

TEST_F(SpaceTest, WhatCannotBeBuiltIsAFailedTrial) {
  config_.structures = {"dense", "monarch"};
  config_.widths = {31, 32};
  config_.train.model.head_width = 1;
  std::vector<std::string> failed;
  for (const Proposal& proposal : propose(config_)) {
    if (proposal.trial.status == store::Status::kFailed) {
      failed.push_back(proposal.trial.structure + " " + proposal.trial.model);
      EXPECT_THAT(proposal.trial.reason, HasSubstr("31"));
    }
  }
  EXPECT_THAT(failed, ElementsAre("monarch gpt d31 L1"));
}

TEST_F(SpaceTest, NothingToBuildIsAnError) {
  config_.structures = {"monarch"};
  config_.widths = {31};
  config_.train.model.head_width = 1;
  EXPECT_THROW(propose(config_), base::InvalidInput);
  config_.widths = {32};
  config_.train.data.path = (folder_ / "nowhere").string();
  try {
    propose(config_);
    FAIL() << "missing data were accepted";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("nowhere"));
  }
}

TEST_F(SpaceTest, UnknownStructureNamesTheNearest) {
  config_.structures = {"dense", "monrach"};
  try {
    propose(config_);
    FAIL() << "an unknown structure was accepted";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("monarch"));
  }
}

TEST_F(SpaceTest, PaperSweepHasItsStructures) {
  EXPECT_EQ(expand_structures({"paper_sweep"}, 0).size(), 23U);
}

TEST_F(SpaceTest, RandomStructuresAreDistinctUsefulAndRepeatable) {
  const auto first = expand_structures({"random:50"}, 3);
  EXPECT_EQ(first.size(), 50U);
  EXPECT_EQ(std::set<std::string>(first.begin(), first.end()).size(), 50U);
  EXPECT_EQ(first, expand_structures({"random:50"}, 3));
  EXPECT_NE(first, expand_structures({"random:50"}, 4));
  for (const std::string& text : first) {
    EXPECT_FALSE(structure::degenerate(structure::parse(text).theta)) << text;
  }
  EXPECT_THROW(expand_structures({"random:0"}, 3), base::InvalidInput);
  EXPECT_THROW(expand_structures({"random:x"}, 3), base::InvalidInput);
}

// At 64 the divisors are powers of two, so that alpha has the values 2/6, 3/6
// and 4/6 between 0.3 and 0.7, and rho = 0 alone makes one rank.
TEST_F(SpaceTest, FamiliesAreDeduplicatedByRealisedSizes) {
  const auto found = members("btt: rho 0..0, alpha 0.3..0.7", {{64, 64}});
  EXPECT_EQ(found.size(), 3U);
  std::set<std::int64_t> alphas;
  for (const std::string& text : found) {
    alphas.insert(
        structure::realise(structure::parse(text), 64, 64).sizes.alpha);
  }
  EXPECT_EQ(alphas, (std::set<std::int64_t>{4, 8, 16}));
  // Ranks 1 to 8 of the square split.
  const auto ranks = members("btt: rho 0..0.5", {{64, 64}});
  std::set<std::int64_t> rhos;
  for (const std::string& text : ranks) {
    rhos.insert(structure::realise(structure::parse(text), 64, 64).sizes.rho);
  }
  EXPECT_EQ(rhos.size(), ranks.size());
  EXPECT_EQ(*rhos.begin(), 1);
  EXPECT_EQ(*rhos.rbegin(), 8);
  // Counts double, and no more experts are active than there are.
  EXPECT_THAT(
      members("btt_moe: E 2..8, k 1..4", {{64, 64}}),
      ElementsAre(
          "btt_moe:E=2,k=1",
          "btt_moe:E=2,k=2",
          "btt_moe:E=4,k=1",
          "btt_moe:E=4,k=2",
          "btt_moe:E=4,k=4",
          "btt_moe:E=8,k=1",
          "btt_moe:E=8,k=2",
          "btt_moe:E=8,k=4"));
  for (const char* bad :
       {"btt: rho 0.5..0.1",
        "btt: rho 0..2",
        "btt: rho",
        "btt: zeta 0..1",
        "nothing: rho 0..1",
        "btt..",
        "btt_moe: E 4..1"}) {
    EXPECT_THROW(members(bad, {{64, 64}}), base::InvalidInput) << bad;
  }
}

TEST_F(SpaceTest, KindsOfLayersHaveAxesOfTheirOwn) {
  config_.widths = {32};
  config_.structures = {"dense", "monarch"};
  config_.space.qkv = {"monarch", "low_rank:0.5"};
  config_.space.attention_out = {"tied", "dense"};
  config_.space.ffn_in = {"monarch"};
  config_.space.ffn_out = {"tied"};
  std::map<std::string, models::StructureConfig> found;
  for (const Proposal& proposal : propose(config_)) {
    found[proposal.trial.structure] = proposal.config.model.structure;
  }
  // Two for the whole model, four combinations of which one is monarch again.
  EXPECT_EQ(found.size(), 5U);
  const models::StructureConfig& mixed = found.at(
      "qkv=low_rank:0.5 attention_out=low_rank:0.5 ffn_in=monarch "
      "ffn_out=monarch");
  EXPECT_EQ(mixed.all, "dense");
  EXPECT_EQ(mixed.k, "low_rank:0.5");
  EXPECT_EQ(mixed.attention_out, "low_rank:0.5");
  EXPECT_EQ(mixed.ffn_out, "monarch");
  EXPECT_EQ(mixed.head, "dense");

  config_.space.qkv = {"btt: rho 0..0.5, alpha 0.2..0.8"};
  config_.space.samples = 7;
  const auto drawn = propose(config_);
  EXPECT_GT(drawn.size(), 4U);
  EXPECT_LE(drawn.size(), 9U);
  EXPECT_EQ(propose(config_).back().trial.id, drawn.back().trial.id);

  config_.space.qkv = {"tied"};
  EXPECT_THROW(propose(config_), base::InvalidInput);
}

TEST_F(SpaceTest, RandomDrawsRatesBetweenTheBounds) {
  config_.scheduler.kind = "random";
  config_.scheduler.trials = 40;
  config_.learning_rates = {1e-3, 1e-1};
  const std::vector<Proposal> proposals = propose(config_);
  ASSERT_EQ(proposals.size(), 40U);
  int low = 0;
  for (const Proposal& proposal : proposals) {
    EXPECT_GE(proposal.trial.learning_rate, 1e-3);
    EXPECT_LE(proposal.trial.learning_rate, 1e-1);
    low += proposal.trial.learning_rate < 1e-2 ? 1 : 0;
  }
  // Log-uniform: half are below the geometric mean, give or take 4 sigma.
  EXPECT_GT(low, 20 - 13);
  EXPECT_LT(low, 20 + 13);
}

TEST_F(SpaceTest, RandomWithoutARangeStopsAtTheWholeGrid) {
  config_.scheduler.kind = "random";
  config_.scheduler.trials = 3;
  EXPECT_EQ(propose(config_).size(), 3U);
  config_.scheduler.trials = 40;
  EXPECT_EQ(propose(config_).size(), 4U);
}

TEST_F(SpaceTest, GroupsFollowWithin) {
  const auto groups = [&](const std::string& within) {
    config_.scheduler.within = within;
    std::set<std::string> names;
    for (const Proposal& proposal : propose(config_)) {
      names.insert(proposal.group);
    }
    return names.size();
  };
  EXPECT_EQ(groups("all"), 1U);
  EXPECT_EQ(groups("model"), 2U);
  EXPECT_EQ(groups("structure"), 2U);
  EXPECT_EQ(groups("both"), 4U);
}

}  // namespace
}  // namespace einforge::search
