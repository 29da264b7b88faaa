// What the page holds, and how much.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "einforge/report/assets.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/page.h"
#include "tests/report/demo_store.h"
#include "tests/store/temporary_store.h"

namespace einforge::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Summary summary_of(void (*make)(const std::filesystem::path&)) {
  const store::testing::TemporaryDirectory directory;
  make(directory / "trials.db");
  return summarise(
      store::Store::open_read_only(directory / "trials.db"), {.bootstrap = 20});
}

void expect_self_contained(const std::string& html) {
  const std::string_view plotly = assets::plotly();
  EXPECT_GT(plotly.size(), 1'000'000u);
  ASSERT_NE(html.find(plotly), std::string::npos);
  std::string own = html;
  own.erase(own.find(plotly), plotly.size());
  const std::string data = own.substr(own.find("id=\"data\">"));
  own.erase(own.find("id=\"data\">"), data.find("</script"));
  EXPECT_THAT(own, Not(HasSubstr("src=")));
  EXPECT_THAT(own, Not(HasSubstr("@import")));
  EXPECT_THAT(own, Not(HasSubstr("{{")));
  // The one address is the name of SVG's namespace, which is not fetched.
  EXPECT_EQ(own.find("http", own.find("http") + 1), std::string::npos);
  EXPECT_THAT(own, HasSubstr("http://www.w3.org/2000/svg"));
  // What a store says may hold </script>; the page must not.
  std::size_t ends = 0;
  for (std::size_t at = 0;
       (at = html.find("</script", at)) != std::string::npos;
       ++at) {
    ++ends;
  }
  EXPECT_EQ(ends, 3u);
}

TEST(Page, IsSelfContainedAndNothingEndsItsScriptsEarly) {
  const std::string demo = to_html(summary_of(testing::make_demo_store));
  expect_self_contained(demo);
  EXPECT_THAT(demo, HasSubstr("\\u003c/script>"));
  expect_self_contained(to_html(summary_of(testing::make_hostile_store)));
}

TEST(Page, OfAnEmptyStoreIsWhole) {
  const store::testing::TemporaryDirectory directory;
  expect_self_contained(
      to_html(summarise(store::Store::open(directory / "trials.db"))));
}

base::Json merged(const base::Json& own, const base::Json& common) {
  base::Json result = common;
  for (const auto& [key, value] : own.items()) {
    result[key] =
        value.is_object() && common.contains(key) && common[key].is_object()
            ? merged(value, common[key])
            : value;
  }
  return result;
}

TEST(Page, HoldsEveryConfigurationOnce) {
  const Summary summary = summary_of(testing::make_demo_store);
  const base::Json data = page_data(summary);
  ASSERT_EQ(data["trials"].size(), summary.trials.size());
  for (std::size_t i = 0; i < summary.trials.size(); ++i) {
    const base::Json& own = data["trials"][i].back();
    const base::Json& config = summary.trials[i].trial.config;
    if (!config.is_null()) {
      // As JSON of no order.
      EXPECT_EQ(
          nlohmann::json(merged(own, data["common_config"])),
          nlohmann::json(config));
    }
  }
  EXPECT_TRUE(data["omitted"].empty());
}

// Too large for a page in every way.
Summary large_summary(int structures, int trials, int points) {
  Summary summary;
  summary.baseline = "dense";
  summary.metadata = {{"command", std::string(1'000'000, 'x')}};
  for (int s = 0; s < structures; ++s) {
    scaling::StructureAnalysis analysis;
    analysis.structure =
        s == 0 ? "dense" : fmt::format("{}:{}", std::string(500, 'n'), s);
    for (int i = 0; i < points; ++i) {
      const double x = std::exp(0.3 * i / points);
      analysis.frontier.push_back({1e12 * x, 2 + 1 / x, "run"});
    }
    summary.compute.structures.push_back(analysis);
    RankedStructure row{analysis.structure};
    row.compute = analysis;
    summary.ranking.push_back(row);
  }
  for (int t = 0; t < trials; ++t) {
    TrialRecord& record = summary.trials.emplace_back();
    record.trial.id = fmt::format("{:016x}", t);
    record.trial.structure =
        summary.ranking[static_cast<std::size_t>(t % structures)].structure;
    record.trial.model = fmt::format("gpt {}", std::string(300, 'm'));
    record.trial.config = {
        {"same", std::string(1000, 's')},
        {"seed", t},
        {"list", std::vector<int>(50, t)}};
    record.trial.reason = std::string(5000, 'r');
    record.trial.routers = {
        {"layers", {{{"layer", "q"}, {"tokens", std::vector<int>(256, t)}}}},
        {"warnings", {{{"kind", "dead"}, {"message", std::string(500, 'w')}}}}};
    summary.ranking[static_cast<std::size_t>(t % structures)].best =
        static_cast<std::size_t>(t);
    for (int i = 0; i < points; ++i) {
      const double x = 1e6 * (i + 1.0);
      record.curve.push_back(
          {i,
           1'000'000'007LL * i,
           x,
           x / 3,
           1 + std::pow(x, -0.3),
           1 + std::pow(x, -0.2)});
    }
  }
  return summary;
}

TEST(Page, StaysWithinAFewMegabytesHoweverLargeTheSearch) {
  struct Case {
    int structures;
    int trials;
    int points;
    double most;  // MB beyond plotly
  };
  for (const Case& c :
       {Case{6, 18, 100'000, 1.5},
        Case{25, 5000, 31, 6},
        Case{2000, 20'000, 5, 8},
        Case{1, 1, 1'000'000, 1.5}}) {
    const Summary summary = large_summary(c.structures, c.trials, c.points);
    const double size =
        static_cast<double>(to_html(summary).size() - assets::plotly().size());
    EXPECT_LT(size, 1e6 * c.most) << c.structures << " structures, " << c.trials
                                  << " trials, " << c.points << " points";
    EXPECT_FALSE(page_data(summary)["omitted"].empty());
  }
}

TEST(Page, ThinsFrontiersOfTheJsonToo) {
  const base::Json json = to_json(large_summary(2, 2, 100'000));
  EXPECT_LT(dump(json).size(), 2'000'000u);
}

TEST(Page, KeepsWhatACurveShows) {
  Summary summary = large_summary(1, 1, 10'000);
  summary.trials[0].curve[0].flops = 0;
  summary.trials[0].curve[7777].val_loss = 50;  // a spike
  const base::Json curve = page_data(summary)["curves"][0];
  const auto losses = curve["val_loss"].get<std::vector<double>>();
  EXPECT_LE(losses.size(), 600u);
  // The first shares hold a point or none; were step 0 at log FLOPs 0, more
  // than half of all would.
  EXPECT_GT(losses.size(), 400u);
  EXPECT_THAT(losses, ::testing::Contains(50));
  EXPECT_NEAR(std::pow(10, curve["flops"].back().get<double>()), 1e10, 2e6);
  EXPECT_NEAR(losses.back(), 1 + std::pow(1e10, -0.2), 1e-4);
}

}  // namespace
}  // namespace einforge::report
