#include "einforge/store/location.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace einforge::store {
namespace {

struct Case {
  std::string location;
  std::string without;
  std::string password;  // "" when there is none
};

class PasswordTest : public ::testing::TestWithParam<Case> {};

TEST_P(PasswordTest, GoesToTheEnvironment) {
  ::unsetenv("PGPASSWORD");
  EXPECT_EQ(without_password(GetParam().location), GetParam().without);
  const char* const password = std::getenv("PGPASSWORD");
  EXPECT_EQ(password == nullptr ? "" : password, GetParam().password);
}

INSTANTIATE_TEST_SUITE_P(
    Locations,
    PasswordTest,
    ::testing::Values(
        Case{"runs/a:b@c/trials.db", "runs/a:b@c/trials.db", ""},
        Case{"postgresql://h/d#s", "postgresql://h/d#s", ""},
        Case{"postgresql://u@h/d", "postgresql://u@h/d", ""},
        Case{"postgresql://u:p@h:5432/d#s", "postgresql://u@h:5432/d#s", "p"},
        Case{"postgres://u:p%40%2Fq@h/d", "postgres://u@h/d", "p@/q"},
        Case{"postgresql://u:p@q@h/d", "postgresql://u@h/d", "p@q"},
        Case{"postgresql://u:p@q/r@h/d#s", "postgresql://u@h/d#s", "p@q/r"},
        Case{"postgresql://u:/@@h:5432/d", "postgresql://u@h:5432/d", "/@"},
        Case{"postgresql://h:5432/d", "postgresql://h:5432/d", ""},
        Case{"postgresql://u@h/a:b@c", "postgresql://u@h/a:b@c", ""},
        Case{"postgresql://h/d?password=p@q", "postgresql://h/d", "p@q"},
        Case{"postgresql://h/d?password=p&x=1", "postgresql://h/d?x=1", "p"},
        Case{
            "postgresql://h/d?x=1&password=p#s", "postgresql://h/d?x=1#s", "p"},
        Case{"postgresql://h/d?password=p", "postgresql://h/d", "p"},
        Case{"postgresql:///d?host=/a:b@c", "postgresql:///d?host=/a:b@c", ""},
        Case{
            "postgresql://h/d?passwords=p",
            "postgresql://h/d?passwords=p",
            ""}));

TEST(Location, AWordOfACommandIsShownWithoutItsPassword) {
  ::unsetenv("PGPASSWORD");
  EXPECT_EQ(shown_word("postgresql://u:p@h/d"), "postgresql://u@h/d");
  EXPECT_EQ(
      shown_word("--store=postgres://u:p@h/d"), "--store=postgres://u@h/d");
  EXPECT_EQ(
      shown_word("store=\"postgresql://h/d?password=p&x=1\""),
      "store=\"postgresql://h/d?x=1\"");
  EXPECT_EQ(shown_word("--out=a:b@c"), "--out=a:b@c");
  EXPECT_EQ(std::getenv("PGPASSWORD"), nullptr);
}

TEST(Location, TakesASearchUnlessItNamesOne) {
  EXPECT_EQ(with_search("runs/x/trials.db", "a"), "runs/x/trials.db");
  EXPECT_EQ(with_search("postgresql://h/d", "a"), "postgresql://h/d#a");
  EXPECT_EQ(with_search("postgresql://h/d#b", "a"), "postgresql://h/d#b");
}

}  // namespace
}  // namespace einforge::store
