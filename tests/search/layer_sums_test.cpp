#include "einforge/search/layer_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "einforge/base/random.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using testing::TemporaryFolder;

class LayerSumsTest : public ::testing::Test {
 protected:
  LayerSumsTest() {
    config_.structures = {"dense", "monarch", "btt_moe:E=4,k=2"};
    config_.space.qkv = {"dense", "monarch", "low_rank:0.5"};
    config_.space.attention_out = {"dense", "tied"};
    config_.space.ffn_in = {"dense", "monarch", "btt_moe:E=4,k=2"};
    config_.space.ffn_out = {"dense", "monarch"};
    config_.widths = {16, 32};
    config_.layers = {1, 3};
    proposals_ = propose(config_);
    for (const Proposal& proposal : proposals_) {
      models_.push_back(&proposal);
    }
  }

  // A sum by the config alone, as nothing of LayerSums has it.
  static double truth(const Proposal& proposal) {
    const auto& model = proposal.config.model;
    const auto& s = model.structure;
    const auto of = [&](const std::string& own, double size) {
      const std::string& name = own.empty() ? s.all : own;
      return size *
             static_cast<double>(1 + std::hash<std::string>()(name) % 1000) *
             static_cast<double>(model.width);
    };
    const double block = of(s.q, 3) + of(s.attention_out, 1) + of(s.ffn_in, 4) +
                         of(s.ffn_out, 5);
    return 100.0 * static_cast<double>(model.width + 7 * model.layers) +
           static_cast<double>(model.layers) * block;
  }

  std::vector<double> measured(
      const std::vector<std::size_t>& chosen, double noise) const {
    base::Random random(3);
    std::vector<double> values(models_.size(), NAN);
    for (const std::size_t i : chosen) {
      values[i] = truth(*models_[i]) * (1 + noise * random.normal());
    }
    return values;
  }

  TemporaryFolder folder_;
  SearchConfig config_ =
      testing::tiny_config(testing::make_data(folder_), folder_ / "out");
  std::vector<Proposal> proposals_;
  std::vector<const Proposal*> models_;
};

TEST_F(LayerSumsTest, FewModelsTellAll) {
  const LayerSums sums(models_);
  const auto chosen = sums.to_measure(1000);
  EXPECT_EQ(std::set(chosen.begin(), chosen.end()).size(), chosen.size());
  EXPECT_GT(models_.size(), 100U);
  EXPECT_LT(chosen.size(), models_.size() / 2);
  const std::vector<double> all = sums.complete(measured(chosen, 0));
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_NEAR(all[i] / truth(*models_[i]), 1, 1e-9)
        << models_[i]->trial.structure << " " << models_[i]->trial.model;
  }
}

TEST_F(LayerSumsTest, NoiseStaysSmall) {
  const LayerSums sums(models_);
  const std::vector<double> all =
      sums.complete(measured(sums.to_measure(1000), 0.01));
  double squares = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    squares += std::pow(all[i] / truth(*models_[i]) - 1, 2);
  }
  EXPECT_LT(std::sqrt(squares / static_cast<double>(all.size())), 0.02);
}

TEST_F(LayerSumsTest, WhatNothingTellsStaysUnknown) {
  const LayerSums sums(models_);
  // No model of width 32, and none with low rank.
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < models_.size(); ++i) {
    if (models_[i]->config.model.width == 16 &&
        models_[i]->trial.structure.find("low_rank") == std::string::npos) {
      chosen.push_back(i);
    }
  }
  const std::vector<double> all = sums.complete(measured(chosen, 0));
  std::set<std::size_t> known(chosen.begin(), chosen.end());
  EXPECT_GT(known.size(), 10U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(std::isfinite(all[i]), known.contains(i));
  }
  const auto none = sums.complete(std::vector<double>(models_.size(), NAN));
  EXPECT_TRUE(std::isnan(none.front()));
  EXPECT_TRUE(sums.to_measure(0).empty());
  EXPECT_EQ(sums.to_measure(3).size(), 3U);
}

}  // namespace
}  // namespace einforge::search
