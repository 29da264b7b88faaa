#include "einforge/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/data/transliterate.h"

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
  struct Case {
    const char* text;
    const char* expected;
  };
  const std::vector<Case> cases = {
      {"", ""},
      {"plain\ntext ~", "plain\ntext ~"},
      {"a\tb\r\nc\fd", "a b\nc\nd"},
      {"\xEF\xBB\xBFx\xC2\xADy", "xy"},
      {"caf\u00e9 \u00c6sop stra\u00dfe \u0141\u00f3d\u017a",
       "cafe AEsop strasse Lodz"},
      {"\u201cx\u201d \u2018y\u2019 \u2014 \u2026", "\"x\" 'y' -- ..."},
      {"\u00bd \u00d7 \u00f7", "1/2 x /"},
      {"\u250c\u2500\u2510\u2502", "+-+|"},
      {"\u65e5\u672c \U0001F600", "?? ?"},
      {"\x01\x7F", "??"},
      // Not UTF-8: each byte of a bad sequence is one '?'.
      {"\x80", "?"},
      {"\xC3(", "?("},
      {"\xE2\x80", "??"},
      {"\xE2\x80\n", "??\n"},
      {"\xC0\xAF", "??"},            // overlong '/'
      {"\xE0\x80\xAF", "???"},       // overlong '/'
      {"\xED\xA0\x80", "???"},       // a surrogate
      {"\xF4\x90\x80\x80", "????"},  // beyond U+10FFFF
      {"\xFF\xFE", "??"},
      {"\xE2\xC3\xA9", "?e"},  // cut short by a good character
  };
  const Tokenizer tokenizer("chars96");
  for (const Case& c : cases) {
    EXPECT_EQ(round_trip(tokenizer, c.text), c.expected) << c.text;
  }
}

TEST(TokenizerTest, EncoderCountsWhatItChanged) {
  const Tokenizer tokenizer("chars96");
  Encoder encoder(tokenizer);
  std::vector<std::uint16_t> tokens;
  encoder.encode("a\r\n\r\n\t\u00e9\u00e9\u65e5\x80\xC3", tokens);
  encoder.finish(tokens);
  const Replacements& replaced = encoder.replacements();
  EXPECT_THAT(replaced.dropped, testing::ElementsAre(testing::Pair(U'\r', 2)));
  EXPECT_THAT(
      replaced.transliterated,
      testing::ElementsAre(
          testing::Pair(U'\t', 1), testing::Pair(U'\u00e9', 2)));
  EXPECT_THAT(
      replaced.unknown, testing::ElementsAre(testing::Pair(U'\u65e5', 1)));
  EXPECT_EQ(replaced.invalid_bytes, 2);
}

TEST(TokenizerTest, PiecesOfAStreamMakeTheSameTokens) {
  const Tokenizer tokenizer("chars96");
  const std::string text =
      "\u201cna\u00efve\u201d \U0001F600 \xE2\x80 \xF0\x9F x\xC3";
  const std::vector<std::int64_t> whole = tokenizer.encode(text);
  for (std::size_t first = 0; first <= text.size(); ++first) {
    for (std::size_t second = first; second <= text.size(); ++second) {
      Encoder encoder(tokenizer);
      std::vector<std::uint16_t> tokens;
      encoder.encode(text.substr(0, first), tokens);
      encoder.encode(text.substr(first, second - first), tokens);
      encoder.encode(text.substr(second), tokens);
      encoder.finish(tokens);
      ASSERT_THAT(tokens, testing::ElementsAreArray(whole))
          << first << " " << second;
    }
  }
}

TEST(TokenizerTest, EverySpellingIsInTheAlphabet) {
  const std::string alphabet = Tokenizer("chars96").symbols();
  for (char32_t code_point = 0x80; code_point <= 0x10FFFF; ++code_point) {
    if (const auto ascii = transliterate(code_point)) {
      for (const char symbol : *ascii) {
        EXPECT_NE(alphabet.find(symbol), std::string::npos)
            << static_cast<std::uint32_t>(code_point);
      }
    }
  }
}

TEST(TokenizerTest, RejectsWhatItCannotUse) {
  const std::vector<std::int64_t> too_large = {96};
  const std::vector<std::int64_t> negative = {-1};
  EXPECT_THROW(Tokenizer("chars96").decode(too_large), base::InvalidInput);
  EXPECT_THROW(Tokenizer("chars96").decode(negative), base::InvalidInput);
  EXPECT_THAT(
      [] { Tokenizer("chars95"); },
      testing::ThrowsMessage<base::InvalidInput>(testing::AllOf(
          testing::HasSubstr("expected chars96 or bytes"),
          testing::HasSubstr("did you mean 'chars96'"))));
}

}  // namespace
}  // namespace einforge::data
