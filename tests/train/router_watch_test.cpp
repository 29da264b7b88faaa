#include "einforge/train/router_watch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace einforge::train {
namespace {

RouterRow row_of(std::vector<std::int64_t> tokens, std::int64_t active) {
  RouterRow row{.layer = "blocks_0.ffn", .active = active};
  row.health.tokens = std::move(tokens);
  const auto& counts = row.health.tokens;
  row.health.dead = std::count(counts.begin(), counts.end(), 0);
  row.health.largest_share =
      static_cast<double>(*std::max_element(counts.begin(), counts.end())) /
      static_cast<double>(row.tokens());
  return row;
}

std::vector<std::string> messages(
    std::vector<std::int64_t> tokens, std::int64_t active) {
  std::vector<std::string> texts;
  for (const auto& w : find_warnings(row_of(std::move(tokens), active), 7)) {
    EXPECT_EQ(w.layer, "blocks_0.ffn");
    EXPECT_EQ(w.step, 7);
    texts.push_back(w.message);
  }
  return texts;
}

using Texts = std::vector<std::string>;

TEST(RouterWarnings, NameTheLayerAndTheExperts) {
  EXPECT_EQ(
      messages({0, 300, 350, 350}, 1),
      (Texts{"router of blocks_0.ffn: expert 0 took none of 1000 tokens at "
             "step 7"}));
  EXPECT_EQ(
      messages({200, 510, 145, 145}, 1),
      (Texts{"router of blocks_0.ffn: expert 1 took 51% of 1000 tokens at "
             "step 7"}));
  EXPECT_EQ(messages({1000, 1000, 0, 0, 0, 0}, 2).size(), 2U);
  std::vector<std::int64_t> many(64, 0);
  many[5] = 2048;
  EXPECT_EQ(
      messages(many, 1)[0],
      "router of blocks_0.ffn: experts 0, 1, 2, 3, 4, 6, 7, 8 and 55 more took "
      "none of 2048 tokens at step 7");
}

TEST(RouterWarnings, AreNotForHealthyRouters) {
  EXPECT_EQ(messages({250, 250, 250, 250}, 1), Texts{});
  EXPECT_EQ(messages({500, 300, 100, 100}, 1), Texts{});  // half, not more
  EXPECT_EQ(messages({700, 500, 400, 400}, 2), Texts{});  // even: half each
  EXPECT_EQ(messages({760, 440, 400, 400}, 2).size(), 1U);
  EXPECT_EQ(messages({600, 400}, 1), Texts{});
  EXPECT_EQ(messages({1000, 1000}, 2), Texts{});  // all tokens take both
  EXPECT_EQ(messages({1000}, 1), Texts{});        // the only one
}

TEST(RouterWarnings, AreNotForWhatChanceDoes) {
  EXPECT_EQ(messages({0, 20, 21, 22}, 1), Texts{});  // 63 of 4 experts
  EXPECT_EQ(messages({0, 21, 21, 22}, 1).size(), 1U);
}

TEST(RouterWarnings, SurviveACheckpoint) {
  const RouterWarning before = find_warnings(row_of({0, 64}, 1), 3).front();
  const RouterWarning after = router_warning(to_json(before));
  EXPECT_EQ(to_json(after), to_json(before));
}

}  // namespace
}  // namespace einforge::train
