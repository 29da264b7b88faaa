#include "einforge/train/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace einforge::train {
namespace {

TEST(Divergence, OfLossesAtAnyTime) {
  EXPECT_EQ(runaway(4.6, 4.7, 4.56, 10), "");
  EXPECT_EQ(runaway(2.5e4, 2.5e4, 4.56, 10), "");  // it may come back
  EXPECT_NE(runaway(1e5, 1e5, 4.56, 10).find("step 10"), std::string::npos);
  EXPECT_NE(runaway(4.6, 1e38, 4.56, 10).find("routers"), std::string::npos);
  // Strong routers' losses are somebody's choice.
  EXPECT_EQ(runaway(4.6, 100, 4.56, 10), "");
  // A vocabulary of one symbol has a loss of 0.
  EXPECT_EQ(runaway(0.1, 0.1, 0, 10), "");
}

TEST(Divergence, OfLossesAtTheEnd) {
  EXPECT_EQ(ended_worse(2, 2.1, 4.56, 10), "");
  EXPECT_EQ(ended_worse(5, 5.1, 4.56, 10), "");
  // It has learnt its text by heart.
  EXPECT_EQ(ended_worse(0.1, 20, 4.56, 10), "");
  const std::string reason = ended_worse(30, 31, 4.56, 10);
  EXPECT_NE(reason.find("31"), std::string::npos) << reason;
  EXPECT_NE(reason.find("4.56"), std::string::npos) << reason;
  EXPECT_EQ(ended_worse(NAN, 31, 4.56, 10), "");
}

}  // namespace
}  // namespace einforge::train
