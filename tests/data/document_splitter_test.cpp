#include "einforge/data/document_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/random.h"

namespace einforge::data {
namespace {

using testing::ElementsAre;
using Documents = std::vector<std::string>;

// Splits a file that comes in pieces of `piece` bytes.
Documents split(
    const std::string& text,
    const std::string& separator,
    std::size_t piece = std::string::npos) {
  Documents documents(1);
  DocumentSplitter splitter(
      separator,
      [&](std::string_view part) { documents.back() += part; },
      [&] { documents.emplace_back(); });
  for (std::size_t i = 0; i < text.size(); i += std::min(piece, text.size())) {
    splitter.add(std::string_view(text).substr(i, piece));
  }
  splitter.end_file();
  EXPECT_EQ(documents.back(), "");
  documents.pop_back();
  return documents;
}

TEST(DocumentSplitterTest, BlankLinesSeparate) {
  EXPECT_THAT(
      split("a\nb\n\nc\n", "blank-line"), ElementsAre("a\nb\n\n", "c\n"));
  EXPECT_THAT(
      split("a\n\n\n\n  b\n", "blank-line"), ElementsAre("a\n\n\n\n", "  b\n"));
  EXPECT_THAT(
      split("a\n \t \n\tb", "blank-line"), ElementsAre("a\n \t \n", "\tb\n"));
  EXPECT_THAT(split("a\n b\n  c", "blank-line"), ElementsAre("a\n b\n  c\n"));
}

TEST(DocumentSplitterTest, LineEndsMayBeOfAnyKind) {
  EXPECT_THAT(
      split("a\r\nb\r\n\r\nc\r\n", "blank-line"),
      ElementsAre("a\r\nb\r\n\r\n", "c\r\n"));
  EXPECT_THAT(
      split("a\rb\r\rc\r", "blank-line"), ElementsAre("a\rb\r\r", "c\r"));
  EXPECT_THAT(
      split("a\r\nb\rc\nd", "line"), ElementsAre("a\r\n", "b\r", "c\n", "d\n"));
  EXPECT_THAT(
      split("a\r \nb\r\n \r\nc", "blank-line"),
      ElementsAre("a\r \n", "b\r\n \r\n", "c\n"));
}

TEST(DocumentSplitterTest, BlankLinesAtTheStartBelongToNoDocument) {
  for (const char* separator : {"blank-line", "line", "file"}) {
    EXPECT_THAT(split("\n\n \r\n  a\n", separator), ElementsAre("  a\n"));
    EXPECT_THAT(split("\n \n\t", separator), ElementsAre());
    EXPECT_THAT(split("", separator), ElementsAre());
  }
}

TEST(DocumentSplitterTest, FilesEndInALineEnd) {
  EXPECT_THAT(split("a\n\nb \t", "file"), ElementsAre("a\n\nb \t\n"));
  EXPECT_THAT(split("a\n \t", "file"), ElementsAre("a\n \t\n"));
  EXPECT_THAT(split("a\r", "file"), ElementsAre("a\r"));
}

TEST(DocumentSplitterTest, AFileStartsAfresh) {
  Documents documents(1);
  DocumentSplitter splitter(
      "blank-line",
      [&](std::string_view part) { documents.back() += part; },
      [&] { documents.emplace_back(); });
  splitter.add("a\r");
  splitter.end_file();
  splitter.add("\nb\n\n");
  splitter.end_file();
  splitter.add("c\n");
  splitter.end_file();
  EXPECT_THAT(documents, ElementsAre("a\r", "b\n\n", "c\n", ""));
}

TEST(DocumentSplitterTest, PiecesMakeTheSameDocuments) {
  base::Random random(5);
  const std::string alphabet = "ab \t\n\n\r";
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int j = 0; j < 40; ++j) {
      text += alphabet[random.below(alphabet.size())];
    }
    for (const char* separator : {"blank-line", "line", "file"}) {
      const Documents whole = split(text, separator);
      std::string together;
      for (const std::string& document : whole) {
        together += document;
        EXPECT_NE(document.find_first_not_of(" \t\r\n"), std::string::npos);
      }
      // Nothing is lost but blank lines at the start.
      EXPECT_TRUE(text.ends_with(together) || (text + "\n").ends_with(together))
          << testing::PrintToString(text);
      for (const std::size_t piece : {1U, 2U, 3U, 11U}) {
        ASSERT_EQ(split(text, separator, piece), whole)
            << testing::PrintToString(text) << separator << piece;
      }
    }
  }
}

TEST(DocumentSplitterTest, ALongLineOfBlanksIsBounded) {
  const std::string blanks(300'000, ' ');
  EXPECT_THAT(
      split("a\n" + blanks + "b\n", "blank-line", 1000),
      ElementsAre("a\n" + blanks + "b\n"));
  EXPECT_EQ(split("a\n\n" + blanks + "b\n", "blank-line", 1000).size(), 2U);
}

TEST(DocumentSplitterTest, AnotherSeparatorIsAnError) {
  EXPECT_THAT(
      [] { split("", "blankline"); },
      testing::ThrowsMessage<base::InvalidInput>(
          testing::HasSubstr("did you mean 'blank-line'?")));
}

}  // namespace
}  // namespace einforge::data
