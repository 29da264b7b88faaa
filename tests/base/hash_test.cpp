#include "einforge/base/hash.h"

#include <gtest/gtest.h>

#include <set>

namespace einforge::base {
namespace {

TEST(HashHex, IsXxh3Of128Bits) {
  // The reference implementation's value for no bytes.
  EXPECT_EQ(hash_hex(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_hex("einforge"), hash_hex(std::string("einforge")));
}

TEST(HashHex, TellsNearTextsApart) {
  std::set<std::string> hashes;
  for (int i = 0; i < 1000; ++i) {
    const std::string hash = hash_hex("trial " + std::to_string(i));
    EXPECT_EQ(hash.size(), 32U);
    hashes.insert(hash);
  }
  hashes.insert(hash_hex(std::string("a\0b", 3)));
  hashes.insert(hash_hex(std::string("a\0c", 3)));
  EXPECT_EQ(hashes.size(), 1002U);
}

}  // namespace
}  // namespace einforge::base
