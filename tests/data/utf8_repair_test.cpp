#include "einforge/data/utf8_repair.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace einforge::data {
namespace {

std::string repeat(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) {
    all += text;
  }
  return all;
}

// What tables 3-8 to 3-11 of the Unicode standard 15 (section 3.9) say, and
// what is not damaged.
const std::vector<std::pair<std::string, std::string>>& cases() {
  static const std::string r = "\xef\xbf\xbd";
  static const std::vector<std::pair<std::string, std::string>> all = {
      {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", repeat(r, 8) + "A"},
      {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", repeat(r, 8) + "A"},
      {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42",
       repeat(r, 5) + "A" + repeat(r, 2) + "B"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", repeat(r, 4) + "A"},
      {"\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa9z",
       "\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa9z"},
      {"\xe2\x82", r},
      {"", ""}};
  return all;
}

TEST(Utf8RepairTest, ReplacesAsTheStandardRecommends) {
  for (const auto& [bytes, expected] : cases()) {
    Utf8Repair repair;
    std::string text;
    repair.add(bytes, text);
    repair.finish(text);
    EXPECT_EQ(text, expected);
  }
}

TEST(Utf8RepairTest, PiecesMakeNoDifference) {
  for (const auto& [bytes, expected] : cases()) {
    for (std::size_t length = 1; length < bytes.size(); ++length) {
      Utf8Repair repair;
      std::string text;
      for (std::size_t at = 0; at < bytes.size(); at += length) {
        repair.add(std::string_view(bytes).substr(at, length), text);
      }
      repair.finish(text);
      EXPECT_EQ(text, expected) << "in pieces of " << length;
    }
  }
}

TEST(Utf8RepairTest, CountsBytes) {
  Utf8Repair repair;
  std::string text;
  repair.add("a\xff\xe2\x82", text);
  EXPECT_EQ(repair.invalid_bytes(), 1);  // two may become a character
  repair.finish(text);
  EXPECT_EQ(repair.invalid_bytes(), 3);
}

}  // namespace
}  // namespace einforge::data
