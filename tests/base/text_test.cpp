#include "einforge/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/error.h"

namespace einforge::base {
namespace {

using ::testing::ElementsAre;

TEST(Nearest, FindsPlausibleMisspellings) {
  const std::vector<std::string> words = {
      "learning_rate", "warmup_steps", "width", "seed"};
  EXPECT_EQ(nearest("learning_rat", words), "learning_rate");
  EXPECT_EQ(nearest("learnin_grate", words), "learning_rate");
  EXPECT_EQ(nearest("widht", words), "width");
  EXPECT_EQ(nearest("width", words), "width");
  EXPECT_EQ(nearest("temperature", words), "");
  EXPECT_EQ(nearest("", words), "");
  EXPECT_EQ(nearest("width", {}), "");
  EXPECT_EQ(suggestion("sed", words), " (did you mean 'seed'?)");
  EXPECT_EQ(suggestion("xyzzy", words), "");
}

TEST(Split, KeepsEmptyParts) {
  EXPECT_THAT(split("a.b.c", '.'), ElementsAre("a", "b", "c"));
  EXPECT_THAT(split("", '.'), ElementsAre(""));
  EXPECT_THAT(split(".a.", '.'), ElementsAre("", "a", ""));
}

TEST(Trim, DropsOuterSpaceOnly) {
  EXPECT_EQ(trim("  a b\t\r\n"), "a b");
  EXPECT_EQ(trim(" \n "), "");
  EXPECT_EQ(trim(""), "");
}

TEST(ParseDouble, TakesTheWholeTextOrThrows) {
  EXPECT_EQ(parse_double("x", "-1.5e3"), -1500);
  EXPECT_EQ(parse_double("x", ".25"), 0.25);
  for (const char* text :
       {"", " 1", "1 ", "1x", "x", "nan", "inf", "-inf", "1e999", "0x10"}) {
    EXPECT_THROW(parse_double("x", text), InvalidInput) << text;
  }
  try {
    parse_double("rate", "fast");
    FAIL();
  } catch (const InvalidInput& error) {
    EXPECT_STREQ(error.what(), "rate: expected a number; got 'fast'");
  }
}

TEST(ParseInteger, TakesTheWholeTextOrThrows) {
  EXPECT_EQ(parse_integer("n", "-12"), -12);
  EXPECT_EQ(parse_integer("n", "9223372036854775807"), INT64_MAX);
  EXPECT_EQ(parse_integer("n", "-1e3"), -1000);
  EXPECT_EQ(parse_integer("n", "2.5e1"), 25);
  for (const char* text :
       {"", "1.5", "1e30", "9223372036854775808", "+1 ", "nan", "1e-1"}) {
    EXPECT_THROW(parse_integer("n", text), InvalidInput) << text;
  }
}

TEST(ParseUnsigned, TakesAllOfItsRangeAndNoMore) {
  EXPECT_EQ(parse_unsigned("n", "18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(parse_unsigned("n", "1e3"), 1000U);
  for (const char* text : {"18446744073709551616", "-1", "-1e3", "1e20", ""}) {
    EXPECT_THROW(parse_unsigned("n", text), InvalidInput) << text;
  }
}

TEST(Printable, LeavesNothingForATerminalToObey) {
  EXPECT_EQ(printable("a\x1b[31mb"), "a\\x1b[31mb");
  EXPECT_EQ(
      printable("caf\u00e9 \u65e5\U0001f600"), "caf\u00e9 \u65e5\U0001f600");
  EXPECT_EQ(printable("a\nb\tc\r"), "a\\nb\\tc\\x0d");
  EXPECT_EQ(printable("a\nb\tc\r", true), "a\nb\tc\\x0d");
  // Directions, line separators and the 8-bit controls.
  EXPECT_EQ(printable("\u202e\u2066\u2028"), "\\u{202e}\\u{2066}\\u{2028}");
  EXPECT_EQ(printable("\u009b31m\x7f"), "\\u{9b}31m\\x7f");
  // Truncated, overlong, a surrogate, beyond Unicode.
  EXPECT_EQ(printable("\xc3"), "\\xc3");
  EXPECT_EQ(printable("\xe2\x82"), "\\xe2\\x82");
  EXPECT_EQ(printable("\xc0\xaf"), "\\xc0\\xaf");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(IsUtf8, KnowsWhatIsNot) {
  EXPECT_TRUE(is_utf8("caf\u00e9\n\x1b"));
  EXPECT_TRUE(is_utf8(""));
  EXPECT_FALSE(is_utf8("caf\xe9"));
  EXPECT_FALSE(is_utf8("\xff"));
}

TEST(Shortened, CutsBetweenCharacters) {
  EXPECT_EQ(shortened("abcdef", 6), "abcdef");
  EXPECT_EQ(shortened("abcdefg", 6), "abc...");
  EXPECT_EQ(
      shortened("\u00e9\u00e9\u00e9\u00e9", 4), "\u00e9\u00e9\u00e9\u00e9");
  EXPECT_EQ(shortened("\u00e9\u00e9\u00e9\u00e9\u00e9", 4), "\u00e9...");
}

TEST(ShellWord, IsWhatAShellReadsBack) {
  EXPECT_EQ(shell_word("model.width=64"), "model.width=64");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("$HOME;`x`"), "'$HOME;`x`'");
}

TEST(HumanCount, HasThreeDigitsAndAUnit) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(7), "7");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(999.7), "1k");
  EXPECT_EQ(human_count(1234), "1.23k");
  EXPECT_EQ(human_count(1234567), "1.23M");
  EXPECT_EQ(human_count(-2.5e9), "-2.5G");
  EXPECT_EQ(human_count(3e15), "3P");
  EXPECT_EQ(human_count(3e18), "3e+03P");
}

TEST(HumanDuration, HasTwoUnitsAtMost) {
  EXPECT_EQ(human_duration(-1), "0s");
  EXPECT_EQ(human_duration(0.4), "0s");
  EXPECT_EQ(human_duration(59.4), "59s");
  EXPECT_EQ(human_duration(59.6), "1m 00s");
  EXPECT_EQ(human_duration(185), "3m 05s");
  EXPECT_EQ(human_duration(3720), "1h 02m");
  EXPECT_EQ(human_duration(90000), "25h 00m");
}

}  // namespace
}  // namespace einforge::base
