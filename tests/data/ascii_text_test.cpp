#include "einforge/data/ascii_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace einforge::data {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::string spell(const std::string& text) {
  AsciiText ascii;
  std::string spelled;
  ascii.add(text, spelled);
  ascii.finish(spelled);
  return spelled;
}

struct Case {
  const char* text;
  const char* expected;
};

void expect(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    EXPECT_EQ(spell(c.text), c.expected) << c.text;
  }
}

TEST(AsciiTextTest, NewlinesAndPrintableAsciiStay) {
  std::string all = "\n";
  for (char symbol = ' '; symbol <= '~'; ++symbol) {
    all += symbol;
  }
  for (int i = 0; i < 5; ++i) {
    all += all;
  }
  EXPECT_EQ(spell(all), all);
  EXPECT_EQ(spell(""), "");
}

TEST(AsciiTextTest, LineEndsOfEveryKindAreNewlines) {
  expect({
      {"a\nb", "a\nb"},
      {"a\r\nb\r\n", "a\nb\n"},
      {"a\rb\r", "a\nb\n"},
      {"a\r\r\nb", "a\n\nb"},
      {"\n\r", "\n\n"},
      {"a\fb", "a\nb"},
      {"a\u0085b\u2028c\u2029d", "a\nb\nc\nd"},
      {"\r\u00e9\r\n\u00e9", "\ne\ne"},
      {"a\tb", "a b"},
  });
}

TEST(AsciiTextTest, SpellsOtherCharacters) {
  expect({
      {"caf\u00e9 \u00c6sop stra\u00dfe STRA\u1e9eE \u0141\u00f3d\u017a",
       "cafe AEsop strasse STRASSE Lodz"},
      // Beyond Latin Extended-A: Romanian, Vietnamese, pinyin, Hausa, Welsh.
      {"\u0219i \u021b\u0103ri", "si tari"},
      {"\u01b0\u1edbc m\u01a1 \u1ec7", "uoc mo e"},
      {"l\u01dc \u01ce", "lu a"},
      {"\u0257an \u0199asa, \u1e81", "dan kasa, w"},
      {"\ufb01ne \u01c4", "fine DZ"},
      {"\u201cx\u201d \u2018y\u2019 \u2014 \u2013 \u2026",
       "\"x\" 'y' -- - ..."},
      {"3 \u00d7 4 \u00f7 2 \u2260 5 \u2264 7", "3 x 4 / 2 != 5 <= 7"},
      {"5 \u20ac \u00a3 20\u00b0", "5 EUR GBP 20 deg"},
      {"\u250c\u2500\u2510\u2502", "+-+|"},
      {"\uff21\uff42\uff11\u3000x", "Ab1 x"},
      {"\u65e5\u672c \U0001F600 \u0436", "?? ? ?"},
      {"\x01\x7F", "??"},
      // What cannot be seen.
      {"\ufeffx\u00ady\u200bz\u2060", "xyz"},
  });
}

TEST(AsciiTextTest, FractionsKeepTheirValue) {
  expect({
      {"\u00bd", "1/2"},
      {"2\u00bd", "2 1/2"},
      {"10\u2159", "10 1/6"},
      {"a\u00be, \u2154", "a3/4, 2/3"},
      {"\u215e\u2152", "7/8 1/10"},
      {"7\u20448", "7/8"},
  });
}

TEST(AsciiTextTest, CanonicallyEquivalentTextsAreTheSame) {
  const std::vector<std::vector<std::string>> forms = {
      {"\u00e9", "e\u0301"},
      {"\u1ec7",
       "e\u0323\u0302",
       "e\u0302\u0323",
       "\u1eb9\u0302",
       "\u00ea\u0323"},
      {"\u212b", "\u00c5", "A\u030a"},
      {"x \u2260 y", "x =\u0338 y"},
      {"\u226e", "<\u0338"},
      {"\ud55c\uae00", "\u1112\u1161\u11ab\u1100\u1173\u11af"},
      {"\u0439", "\u0438\u0306"},
      {"\u2126", "\u03a9"},
      {"\u01d7", "U\u0308\u0301", "\u00dc\u0301"},
  };
  for (const auto& same : forms) {
    for (const std::string& form : same) {
      EXPECT_EQ(spell(form), spell(same[0])) << form << " " << same[0];
    }
  }
  // A letter without a composed form loses its marks all the same.
  EXPECT_EQ(spell("j\u0301 q\u0323\u0307"), "j q");
  EXPECT_NE(spell("\u226e"), "<") << "not less is not less";
}

TEST(AsciiTextTest, EachByteThatIsNotUtf8IsAQuestionMark) {
  expect({
      {"\x80", "?"},
      {"\xC3(", "?("},
      {"\xE2\x80", "??"},
      {"\xE2\x80\n", "??\n"},
      {"\xC0\xAF", "??"},                      // overlong '/'
      {"\xE0\x80\xAF", "???"},                 // overlong '/'
      {"\xF0\x80\x80\xAF", "????"},            // overlong '/'
      {"\xED\xA0\x80", "???"},                 // a lone surrogate
      {"\xED\xA0\xBD\xED\xB8\x80", "??????"},  // a pair of them
      {"\xF4\x90\x80\x80", "????"},            // beyond U+10FFFF
      {"\xF8\x88\x80\x80\x80", "?????"},
      {"\xFF\xFE", "??"},
      {"\xE2\xC3\xA9", "?e"},  // cut short by a good character
      {"na\xEFve", "na?ve"},   // Latin-1
  });
}

TEST(AsciiTextTest, CountsWhatItChanged) {
  AsciiText ascii;
  std::string text;
  ascii.add("a\r\n\r\n\t\u00e9e\u0301\u65e5\x80\u200b\r\xC3", text);
  ascii.finish(text);
  const Replacements& replaced = ascii.replacements();
  EXPECT_THAT(
      replaced.dropped, ElementsAre(Pair(U'\r', 2), Pair(U'\u200b', 1)));
  EXPECT_THAT(
      replaced.transliterated,
      ElementsAre(Pair(U'\t', 1), Pair(U'\r', 1), Pair(U'\u00e9', 2)));
  EXPECT_THAT(replaced.unknown, ElementsAre(Pair(U'\u65e5', 1)));
  EXPECT_EQ(replaced.invalid_bytes, 2);
}

TEST(AsciiTextTest, PiecesOfAStreamMakeTheSameText) {
  const std::string text =
      "\u201cna\u00efve\u201d \U0001F600 \xE2\x80 \xF0\x9F e\u0301\r\n3\u00bd"
      "\r\r\nx\xC3";
  const std::string whole = spell(text);
  for (std::size_t first = 0; first <= text.size(); ++first) {
    for (std::size_t second = first; second <= text.size(); ++second) {
      AsciiText ascii;
      std::string pieces;
      ascii.add(text.substr(0, first), pieces);
      ascii.add(text.substr(first, second - first), pieces);
      ascii.add(text.substr(second), pieces);
      ascii.finish(pieces);
      ASSERT_EQ(pieces, whole) << first << " " << second;
    }
  }
}

// Text without ASCII, without a place to cut it, and no text: bounded memory,
// and the same text however it comes.
TEST(AsciiTextTest, LongRunsBeyondAsciiAreCutAlike) {
  for (const char* unit :
       {"\u65e5", "e\u0301\u0323", "\u0301", "\x80", "\U0001F600"}) {
    std::string text = "x";
    while (text.size() < 40'000) {
      text += unit;
    }
    const std::string whole = spell(text);
    for (const std::size_t piece : {1U, 7U, 4096U, 8191U, 20'000U}) {
      AsciiText ascii;
      std::string pieces;
      for (std::size_t i = 0; i < text.size(); i += piece) {
        ascii.add(text.substr(i, piece), pieces);
      }
      ascii.finish(pieces);
      ASSERT_EQ(pieces, whole) << unit << " " << piece;
    }
  }
}

TEST(AsciiTextTest, EverySpellingIsInTheAlphabet) {
  Transliterator transliterator;
  int spelled = 0;
  for (char32_t character = 0x80; character <= 0x10FFFF; ++character) {
    if (const auto& spelling = transliterator.spell(character)) {
      ++spelled;
      for (const char symbol : *spelling) {
        EXPECT_TRUE(symbol == '\n' || (symbol >= ' ' && symbol <= '~'))
            << static_cast<std::uint32_t>(character);
      }
    }
  }
  EXPECT_GT(spelled, 4000);
}

}  // namespace
}  // namespace einforge::data
