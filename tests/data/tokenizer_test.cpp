#include "einforge/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "einforge/base/error.h"

namespace einforge::data {
namespace {

std::string round_trip(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.decode(tokenizer.encode(text));
}

TEST(TokenizerTest, Chars96IsNewlineAndPrintableAscii) {
  const Tokenizer tokenizer("chars96");
  std::string expected = "\n";
  for (char symbol = ' '; symbol <= '~'; ++symbol) {
    expected += symbol;
  }
  EXPECT_EQ(tokenizer.vocab_size(), 96);
  EXPECT_EQ(tokenizer.symbols(), expected);
  std::vector<std::int64_t> all(96);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(tokenizer.encode(expected), all);
  EXPECT_EQ(tokenizer.decode(all), expected);
}

TEST(TokenizerTest, BytesLoseNothing) {
  const Tokenizer tokenizer("bytes");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    all += static_cast<char>(byte);
  }
  EXPECT_EQ(tokenizer.vocab_size(), 256);
  EXPECT_EQ(round_trip(tokenizer, all), all);
}

TEST(TokenizerTest, Chars96SpellsOtherCharactersInAscii) {
  EXPECT_EQ(round_trip(Tokenizer("chars96"), "caf\u00e9\r\n\u65e5"), "cafe\n?");
}

TEST(TokenizerTest, RejectsWhatItCannotUse) {
  const std::vector<std::int64_t> too_large = {96};
  const std::vector<std::int64_t> negative = {-1};
  EXPECT_THROW(Tokenizer("chars96").decode(too_large), base::InvalidInput);
  EXPECT_THROW(Tokenizer("chars96").decode(negative), base::InvalidInput);
  EXPECT_THAT(
      [] { Tokenizer("chars95"); },
      testing::ThrowsMessage<base::InvalidInput>(testing::AllOf(
          testing::HasSubstr("expected chars96, bytes or "),
          testing::HasSubstr("did you mean 'chars96'"))));
}

}  // namespace
}  // namespace einforge::data
