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
    EXPECT_EQ(w.since, 7);
    EXPECT_EQ(w.step, 7);
    texts.push_back(w.message());
  }
  return texts;
}

using Texts = std::vector<std::string>;

TEST(RouterWarnings, NameTheLayerAndTheExperts) {
  EXPECT_EQ(
      messages({0, 300, 350, 350}, 1),
      (Texts{"router of blocks_0.ffn: expert 0 took none of 1000 "
             "tokens"}));
  EXPECT_EQ(
      messages({200, 510, 145, 145}, 1),
      (Texts{"router of blocks_0.ffn: expert 1 took 51% of 1000 "
             "tokens"}));
  EXPECT_EQ(messages({1000, 1000, 0, 0, 0, 0}, 2).size(), 2U);
  std::vector<std::int64_t> many(64, 0);
  many[5] = 2048;
  EXPECT_EQ(
      messages(many, 1)[0],
      "router of blocks_0.ffn: experts 0, 1, 2, 3, 4, 6, 7, 8 and 55 more took "
      "none of 2048 tokens");
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

std::vector<std::string> add(
    RouterWarnings& warnings, std::vector<std::int64_t> tokens, int step) {
  std::vector<std::string> texts;
  for (const RouterWarning& w :
       warnings.add(find_warnings(row_of(std::move(tokens), 1), step))) {
    texts.push_back(to_json(w)["message"]);
  }
  return texts;
}

TEST(RouterWarnings, LastFromTheSecondRowOn) {
  const std::vector<std::int64_t> fine = {32, 32};
  const std::vector<std::int64_t> overloaded = {60, 4};
  const std::vector<std::int64_t> dead = {64, 0};
  RouterWarnings warnings;
  EXPECT_EQ(add(warnings, overloaded, 10), Texts{});
  EXPECT_EQ(add(warnings, fine, 20), Texts{});
  EXPECT_TRUE(warnings.lasting().empty());  // a moment's
  EXPECT_EQ(add(warnings, overloaded, 30), Texts{});
  EXPECT_EQ(
      add(warnings, dead, 40),
      (Texts{"router of blocks_0.ffn: expert 0 took 100% of 64 tokens at step "
             "40, since step 30"}));
  // Said once, but followed to its end.
  EXPECT_EQ(
      add(warnings, dead, 50),
      (Texts{"router of blocks_0.ffn: expert 1 took none of 64 tokens at step "
             "50, since step 40"}));
  EXPECT_EQ(add(warnings, dead, 60), Texts{});
  EXPECT_EQ(add(warnings, fine, 70), Texts{});
  ASSERT_EQ(warnings.lasting().size(), 2U);
  EXPECT_EQ(warnings.lasting()[0].kind, "overloaded");
  EXPECT_EQ(warnings.lasting()[0].since, 30);
  EXPECT_EQ(warnings.lasting()[0].step, 60);
  // Anew, it is said anew.
  EXPECT_EQ(add(warnings, overloaded, 80), Texts{});
  EXPECT_EQ(add(warnings, overloaded, 90).size(), 1U);
  EXPECT_EQ(warnings.lasting().size(), 2U);
  EXPECT_EQ(warnings.lasting()[0].since, 80);
}

TEST(RouterWarnings, AreOfTheSameExpertInBothRows) {
  RouterWarnings warnings;
  EXPECT_EQ(add(warnings, {44, 10, 5, 5}, 10), Texts{});
  EXPECT_EQ(add(warnings, {5, 44, 10, 5}, 20), Texts{});  // another's turn
  EXPECT_EQ(add(warnings, {5, 5, 44, 10}, 30), Texts{});
  EXPECT_TRUE(warnings.lasting().empty());
  // Experts die one after the other; 3 comes back.
  EXPECT_EQ(add(warnings, {32, 32, 0, 0}, 40), Texts{});
  EXPECT_EQ(
      add(warnings, {32, 0, 0, 32}, 50),
      (Texts{"router of blocks_0.ffn: expert 2 took none of 64 tokens at step "
             "50, since step 40"}));
  EXPECT_EQ(
      add(warnings, {32, 0, 0, 32}, 60),
      (Texts{"router of blocks_0.ffn: expert 1 took none of 64 tokens at step "
             "60, since step 50"}));
  ASSERT_EQ(warnings.lasting().size(), 1U);
  EXPECT_EQ(warnings.lasting()[0].experts, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(warnings.lasting()[0].since, 50);  // of both
}

TEST(RouterWarnings, SurviveACheckpoint) {
  RouterWarnings before;
  add(before, {64, 0}, 10);
  RouterWarnings after;
  after.restore(base::Json::parse(before.state().dump()));
  EXPECT_EQ(after.state(), before.state());
  EXPECT_EQ(add(after, {64, 0}, 20), add(before, {64, 0}, 20));
  EXPECT_EQ(after.lasting().size(), 2U);
}

}  // namespace
}  // namespace einforge::train
