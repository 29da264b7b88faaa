#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "einforge/data/prepare.h"
#include "einforge/data/token_files.h"
#include "tests/data/documents.h"

namespace einforge::data {
namespace {

// Each copy of a document differs from the first in something that a copy may
// differ in: all are on one side.
TEST(CopiesTest, OfADocumentAreOnOneSide) {
  using Change = std::function<std::string(std::string)>;
  const auto replace =
      [](std::string text, const std::string& from, const std::string& to) {
        for (std::size_t i = text.find(from); i != std::string::npos;
             i = text.find(from, i + to.size())) {
          text.replace(i, from.size(), to);
        }
        return text;
      };
  const std::vector<std::pair<const char*, Change>> changes = {
      {"the same file again", [](std::string t) { return t; }},
      {"CRLF", [&](std::string t) { return replace(t, "\n", "\r\n"); }},
      {"CR", [&](std::string t) { return replace(t, "\n", "\r"); }},
      {"blanks at the ends of lines, blank ones too",
       [&](std::string t) { return replace(t, "\n", " \t\n"); }},
      {"more blank lines",
       [&](std::string t) { return replace(t, "\n\n", "\n\n\n \n\n"); }},
      {"blank lines first", [](std::string t) { return "\n \n\n" + t; }},
      {"no newline at the end",
       [](std::string t) { return t.erase(t.find_last_not_of('\n') + 1); }},
      {"a byte-order mark", [](std::string t) { return "\xef\xbb\xbf" + t; }},
      {"decomposed",
       [&](std::string t) {
         return replace(
             replace(t, "\u00e9", "e\u0301"), "\u1ec7", "\u1eb9\u0302");
       }},
  };
  std::string text;
  for (int i = 0; i < 120; ++i) {
    text += "caf\u00e9 number " + std::to_string(i) + "\nVi\u1ec7t\n\n";
  }
  for (const char* tokens : {"chars96", "bytes"}) {
    for (const auto& [name, change] : changes) {
      const TemporaryFolder folder;
      folder.write("in/a", text);
      folder.write("in/b", change(text));
      PrepareOptions options = options_for(folder);
      options.tokens = tokens;
      options.val_share = 0.3;
      const Metadata metadata = prepare(options);
      ASSERT_EQ(metadata.train.documents + metadata.validation.documents, 240)
          << name;
      const TokenFiles files(options.out);
      const std::string train = text_of(files.train, tokens);
      const std::string validation = text_of(files.validation, tokens);
      for (int i = 0; i < 120; ++i) {
        const std::string mark = " number " + std::to_string(i);
        const auto holds = [&](const std::string& side) {
          for (const char end : {'\n', '\r', ' '}) {
            if (side.find(mark + end) != std::string::npos) {
              return true;
            }
          }
          return false;
        };
        ASSERT_NE(holds(train), holds(validation)) << name << tokens << i;
      }
    }
  }
}

// A document with blank lines in it can only be a whole file.
TEST(CopiesTest, OfAFileAreOnOneSide) {
  const TemporaryFolder folder;
  for (int i = 0; i < 60; ++i) {
    const std::string name = std::to_string(i);
    folder.write("in/" + name + "a", "Chapter " + name + "\n\nText\nMore\n");
    folder.write("in/" + name + "b", "\nChapter " + name + "\nText\n\n\nMore");
    folder.write(
        "in/" + name + "c", "Chapter " + name + " \r\n\r\nText\r\nMore");
  }
  PrepareOptions options = options_for(folder);
  options.document_separator = "file";
  options.val_share = 0.4;
  const Metadata metadata = prepare(options);
  EXPECT_EQ(metadata.train.documents + metadata.validation.documents, 180);
  EXPECT_EQ(metadata.validation.documents % 3, 0);
  EXPECT_GT(metadata.validation.documents, 0);
}

}  // namespace
}  // namespace einforge::data
