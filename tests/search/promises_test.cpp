// docs/search.md and the tests of what it promises.

#include "tests/search/promises.h"

#include <regex>

namespace einforge::search {
namespace {

TEST(Promises, EachIsQuotedByATest) {
  const auto root = testing::source_root();
  const std::string page = testing::read(root / "docs" / "search.md");
  const std::size_t begin = page.find("<!-- promises:");
  const std::size_t end = page.find("<!-- promises end -->");
  ASSERT_NE(begin, std::string::npos);
  ASSERT_LT(begin, end);

  std::string tests;
  for (const auto& entry :
       std::filesystem::directory_iterator(root / "tests" / "search")) {
    if (entry.path().extension() == ".cpp") {
      tests += testing::read(entry.path());
    }
  }
  // "in two " "parts" is one string.
  tests = std::regex_replace(tests, std::regex("\"\\s*\""), "");
  tests = std::regex_replace(tests, std::regex("promise\\(\\s*"), "promise(");

  // A promise is an item of a list, which may go on in indented lines.
  const std::string part = page.substr(begin, end - begin);
  const std::regex item("\n- ([^\n]*(\n  [^\n]*)*)");
  int promises = 0;
  for (std::sregex_iterator found(part.begin(), part.end(), item), none;
       found != none;
       ++found, ++promises) {
    const std::string sentence = testing::flowing((*found)[1]);
    EXPECT_NE(tests.find("promise(\"" + sentence + "\")"), std::string::npos)
        << "no test quotes: " << sentence;
  }
  EXPECT_GT(promises, 15);
}

}  // namespace
}  // namespace einforge::search
