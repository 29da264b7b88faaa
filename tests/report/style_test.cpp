#include "einforge/report/style.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "einforge/structure/structure.h"

namespace einforge::report {
namespace {

std::vector<std::string> known_names() {
  std::set<std::string> names;
  for (const std::string& family : structure::families()) {
    if (family != "theta") {
      const bool mixture = family.ends_with("_moe");
      names.insert(
          structure::parse(mixture ? family + ":E=16,k=2" : family).text);
    }
  }
  for (const structure::Theta& theta : structure::paper_sweep()) {
    names.insert(structure::to_spec(theta).text);
  }
  return {names.begin(), names.end()};
}

std::size_t distinct(const std::vector<Style>& looks, std::string Style::*key) {
  std::set<std::string> colours;
  for (const Style& look : looks) {
    colours.insert(look.*key);
  }
  return colours.size();
}

TEST(DisplayName, IsThatOfDescribe) {
  EXPECT_EQ(display_name("theta:0.5,0,0.5,0,0.5,0.5,0"), "monarch");
  EXPECT_EQ(display_name("theta:1,0,0,0,1,0,0.5"), "low_rank:0.5");
  EXPECT_EQ(display_name("theta:0.33,0,0.67,0,0.67,0.33,0"), "btt:0,alpha=1/3");
  EXPECT_EQ(display_name("theta:0.5,0,0.5,0,0.5,0.5,0,pad"), "monarch:pad");
  for (const char* name :
       {"monarch",
        "",
        "theta:",
        "theta:7",
        "theta:<b>",
        "my run",
        "theta:0.5,0.25,0.25,0.25,0.5,0.25,0"}) {
    EXPECT_EQ(display_name(name), name);
  }
}

TEST(Styles, GiveNoColourTwice) {
  std::vector<std::string> names = known_names();
  EXPECT_GE(names.size(), 28u);
  for (int i = 0; i < 300; ++i) {
    names.push_back(fmt::format("btt:0.{},alpha=0.{}", i, 2 * i));
  }
  const auto looks = styles(names);
  EXPECT_EQ(distinct(looks, &Style::light), names.size());
  for (const Style& look : looks) {
    EXPECT_EQ(look.light.size(), 7u);
    EXPECT_EQ(look.dark.size(), 7u);
    EXPECT_FALSE(look.symbol.empty());
  }
  // Of the known ones on a dark page neither.
  EXPECT_EQ(
      distinct(styles(known_names()), &Style::dark), known_names().size());
}

TEST(Styles, DoNotDependOnTheOtherStructures) {
  const std::vector<std::string> names = known_names();
  const auto all = styles(names);
  std::vector<std::string> reversed(names.rbegin(), names.rend());
  const auto back = styles(reversed);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::vector<std::string> few = {"another", names[i]};
    EXPECT_EQ(styles(few)[1].light, all[i].light) << names[i];
    EXPECT_EQ(back[names.size() - 1 - i].light, all[i].light) << names[i];
  }
}

TEST(Styles, GoOnWhenThereAreMoreStructuresThanColours) {
  std::vector<std::string> names;
  for (int i = 0; i < 20'000; ++i) {
    names.push_back(std::to_string(i));
  }
  EXPECT_GT(distinct(styles(names), &Style::light), 500u);
}

}  // namespace
}  // namespace einforge::report
