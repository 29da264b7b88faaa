#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/search/testing.h"

namespace einforge::search::testing {

// With every run of blanks as one space, as Markdown reads it.
inline std::string flowing(const std::string& text) {
  std::string result;
  for (const char c : text) {
    const bool blank = c == ' ' || c == '\n';
    if (!blank) {
      result += c;
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  return result;
}

// Says that the test which calls it tries a sentence of docs/search.md, and
// fails where the page does not have it (any more). promises_test.cpp fails for
// a promise of that page that no test quotes.
inline void promise(const std::string& sentence) {
  EXPECT_THAT(
      flowing(read(source_root() / "docs" / "search.md")),
      ::testing::HasSubstr("- " + sentence + " "));
}

}  // namespace einforge::search::testing
