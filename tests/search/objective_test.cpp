#include "einforge/search/objective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/error.h"

namespace einforge::search {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const base::InvalidInput& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Objective, AreOneOrSeveral) {
  EXPECT_THAT(parse_objective("flops"), ElementsAre(Cost::kFlops));
  EXPECT_THAT(
      parse_objective(" seconds,decode_ms , memory"),
      ElementsAre(Cost::kSeconds, Cost::kDecodeMs, Cost::kMemory));
  const auto message = [](const char* text) {
    return message_of([&] { parse_objective(text); });
  };
  EXPECT_THAT(message("decode_m"), HasSubstr("did you mean"));
  EXPECT_THAT(message(""), HasSubstr("expected flops, seconds"));
  EXPECT_THAT(message("flops,"), HasSubstr("got 'flops,'"));
  EXPECT_THAT(message("flops, flops"), HasSubstr("each once"));
}

TEST(Constraint, HasAUnit) {
  EXPECT_EQ(parse_constraint("memory <= 40 GB").most, 40e9);
  EXPECT_EQ(parse_constraint("memory<=1.5GiB").most, 1.5 * (1 << 30));
  EXPECT_EQ(parse_constraint("memory <= 1e3 kB").most, 1e6);
  EXPECT_EQ(parse_constraint("memory <= 7 B").cost, Cost::kMemory);
  EXPECT_EQ(parse_constraint("decode_ms <= 0.25").most, 0.25);
  EXPECT_EQ(parse_constraint(" decode_ms  <=  2 ms ").text, "decode_ms <= 2");
  EXPECT_EQ(parse_constraint("decode_ms <= 2").cost, Cost::kDecodeMs);
}

TEST(Constraint, SaysInOneLineWhatIsWrong) {
  const auto message = [](const char* text) {
    return message_of([&] { parse_constraint(text); });
  };
  for (const char* text :
       {"memory <= 40", "memory <= 40 gb", "memory <= 40 ms"}) {
    EXPECT_THAT(message(text), HasSubstr("memory in B, kB")) << text;
  }
  for (const char* text :
       {"flops <= 3", "memory", "memory > 40 GB", "", "<= 3"}) {
    EXPECT_THAT(message(text), HasSubstr("'memory <= NUMBER UNIT'")) << text;
  }
  EXPECT_THAT(message("decode_ms <= 2 s"), HasSubstr("in ms"));
  EXPECT_THAT(message("decode_ms <= 0"), HasSubstr("above 0"));
  EXPECT_THAT(message("memory <= -1 GB"), HasSubstr("above 0"));
  EXPECT_THAT(message("decode_ms <= few"), HasSubstr("number"));
  EXPECT_THAT(message("memory <= GB"), HasSubstr("number"));
}

}  // namespace
}  // namespace einforge::search
