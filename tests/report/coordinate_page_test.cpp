#include "einforge/report/coordinate_page.h"

#include <gtest/gtest.h>

#include <string>

namespace einforge::report {
namespace {

TEST(CoordinatePage, HoldsItsDataAndNoForeignScript) {
  const base::Json checked = {
      {"widths", {64, 128}},
      {"structures",
       {{{"structure", "</script><b>"},
         {"verdict", "flat"},
         {"because", nullptr},
         {"coordinates", base::Json::array()}}}}};
  const std::string page = coordinate_page(checked);
  EXPECT_EQ(page.find("</script><b>"), std::string::npos);
  EXPECT_NE(page.find("\\u003c/script>\\u003cb>"), std::string::npos);
  EXPECT_EQ(page.find("{{style}}"), std::string::npos);
  EXPECT_EQ(page.find("{{data}}"), std::string::npos);
  EXPECT_EQ(page.find("{{plotly}}"), std::string::npos);
  EXPECT_TRUE(page.ends_with("</html>\n"));
  // The data, plotly.js and the page's own script.
  EXPECT_GT(page.size(), 1'000'000U);
}

}  // namespace
}  // namespace einforge::report
