#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "einforge/report/assets.h"
#include "einforge/report/html.h"
#include "einforge/report/json.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"
#include "tests/report/demo_store.h"
#include "tests/store/temporary_store.h"

namespace einforge::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DemoReport : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const store::testing::TemporaryDirectory directory;
    testing::make_demo_store(directory / "trials.db");
    SummaryOptions options;
    options.bootstrap = 200;
    summary_ = new Summary(summarise(
        store::Store::open_read_only(directory / "trials.db"), options));
  }
  static void TearDownTestSuite() { delete summary_; }

  static Summary* summary_;
};

Summary* DemoReport::summary_ = nullptr;

TEST_F(DemoReport, RanksByComputeMultiplierNearTheTruth) {
  const base::Json json = to_json(*summary_);
  ASSERT_EQ(json["ranking"].size(), std::size(testing::kDemoStructures));
  double last = INFINITY;
  for (const base::Json& row : json["ranking"]) {
    const double multiplier = row["compute_multiplier"];
    EXPECT_LE(multiplier, last);
    last = multiplier;
    const auto* truth = std::find_if(
        std::begin(testing::kDemoStructures),
        std::end(testing::kDemoStructures),
        [&](const auto& s) { return s.name == row["structure"]; });
    EXPECT_NEAR(
        std::log(multiplier), std::log(truth->advantage), std::log(1.25))
        << row["structure"];
    EXPECT_EQ(row["omega"], truth->omega);
    EXPECT_EQ(row["psi"], truth->psi);
    EXPECT_EQ(row["nu"], truth->nu);
    ASSERT_EQ(row["ci95"].size(), 2u);
    EXPECT_LE(row["ci95"][0].get<double>(), multiplier);
    EXPECT_GE(row["ci95"][1].get<double>(), multiplier);
    EXPECT_TRUE(row["wall_clock_multiplier"].is_number());
    EXPECT_TRUE(row["exponent"].is_number());
  }
  EXPECT_EQ(json["ranking"][0]["structure"], "monarch");
}

TEST_F(DemoReport, JsonHoldsEveryTrial) {
  const base::Json json = to_json(*summary_);
  ASSERT_EQ(json["trials"].size(), 23u);
  for (const base::Json& trial : json["trials"]) {
    for (const char* key :
         {"id",
          "structure",
          "model",
          "omega",
          "psi",
          "nu",
          "parameters",
          "learning_rate",
          "flops",
          "seconds",
          "final_loss",
          "status",
          "reason",
          "config",
          "routers"}) {
      EXPECT_TRUE(trial.contains(key)) << key;
    }
  }
  EXPECT_EQ(json["trials"][0]["status"], "done");
  EXPECT_TRUE(json["trials"][0]["reason"].is_null());
  EXPECT_EQ(json["trials"][21]["status"], "failed");
  EXPECT_TRUE(json["trials"][21]["final_loss"].is_null());
  EXPECT_THAT(
      json["trials"][21]["reason"].get<std::string>(), HasSubstr("signal 9"));
  EXPECT_EQ(json["metadata"]["name"], "demo");
  EXPECT_EQ(json["metadata"]["versions"]["torch"], "2.11.0");
  EXPECT_EQ(json["bootstrap"]["replicates"], summary_->bootstrap);
  EXPECT_EQ(json["bootstrap"]["seed"], summary_->seed);
  EXPECT_EQ(json["fits"]["flops"]["metric"], "flops");
  EXPECT_EQ(json["fits"]["seconds"]["metric"], "seconds");
  // It is JSON for others too: no NaN anywhere.
  EXPECT_FALSE(base::Json::parse(dump(json), nullptr, false).is_discarded());
}

TEST_F(DemoReport, RoutersAreInTheJsonAndWarningsUnderTheTable) {
  const base::Json json = to_json(*summary_);
  int with = 0;
  for (const base::Json& trial : json["trials"]) {
    if (!trial["routers"].is_null()) {
      EXPECT_EQ(trial["structure"], "btt_moe:E=4,k=2");
      EXPECT_EQ(trial["routers"], testing::demo_routers());
      ++with;
    }
  }
  EXPECT_EQ(with, 3);
  EXPECT_THAT(
      ranking_table(*summary_),
      HasSubstr("btt_moe:E=4,k=2 gpt d64 L2, trial 01234567: router of "
                "blocks_1.ffn_in: experts 2, 3 took none of 4096 tokens at "
                "step 120, and 1 more\n"));
}

std::string quoted(const std::string& text) {
  return text.find(',') == std::string::npos ? text : '"' + text + '"';
}

TEST_F(DemoReport, CsvAndJsonGiveTheSameNumbers) {
  std::istringstream csv(ranking_csv(*summary_));
  const base::Json ranking = to_json(*summary_)["ranking"];
  std::string line;
  std::getline(csv, line);
  EXPECT_THAT(line, HasSubstr("structure,compute_multiplier,ci95_low,"));
  for (const base::Json& row : ranking) {
    ASSERT_TRUE(std::getline(csv, line));
    EXPECT_EQ(
        line.rfind(
            fmt::format(
                "{},{},{},{},",
                quoted(row["structure"]),
                row["compute_multiplier"].dump(),
                row["ci95"][0].dump(),
                row["ci95"][1].dump()),
            0),
        0u)
        << line;
  }
  EXPECT_FALSE(std::getline(csv, line));
}

TEST_F(DemoReport, PointsCsvIsWhatFitReads) {
  auto runs = to_runs(summary_->trials);
  const auto read = scaling::parse_csv(points_csv(runs), "points.csv");
  ASSERT_EQ(read.size(), runs.size());
  scaling::AnalysisOptions options;
  options.bootstrap = 0;
  const auto a = scaling::analyse(scaling::best_learning_rates(runs), options);
  const auto b = scaling::analyse(scaling::best_learning_rates(read), options);
  ASSERT_EQ(a.structures.size(), b.structures.size());
  for (std::size_t i = 0; i < a.structures.size(); ++i) {
    EXPECT_EQ(a.structures[i].structure, b.structures[i].structure);
    EXPECT_EQ(a.structures[i].multiplier, b.structures[i].multiplier);
  }
}

TEST_F(DemoReport, TerminalTableHasARowAStructure) {
  const std::string table = ranking_table(*summary_);
  for (const auto& structure : testing::kDemoStructures) {
    EXPECT_THAT(table, HasSubstr(structure.name));
  }
  EXPECT_LT(table.find("monarch"), table.find("kronecker"));
  EXPECT_THAT(table, HasSubstr("1 failed, 1 diverged"));
  EXPECT_THAT(fit_table(summary_->compute), HasSubstr("one floor"));
}

TEST_F(DemoReport, PageIsSelfContainedAndNothingEndsItsScriptsEarly) {
  const std::string html = to_html(*summary_);
  const std::string_view plotly = assets::plotly();
  EXPECT_GT(plotly.size(), 1'000'000u);
  ASSERT_NE(html.find(plotly), std::string::npos);
  std::string own = html;
  own.erase(own.find(plotly), plotly.size());
  EXPECT_THAT(own, Not(HasSubstr("src=")));
  EXPECT_THAT(own, Not(HasSubstr("@import")));
  EXPECT_THAT(own, Not(HasSubstr("{{")));
  // The one address is the name of SVG's namespace, which is not fetched.
  EXPECT_EQ(own.find("http", own.find("http") + 1), std::string::npos);
  EXPECT_THAT(own, HasSubstr("http://www.w3.org/2000/svg"));
  // A config says </script>; the page must not.
  std::size_t ends = 0;
  for (std::size_t at = 0;
       (at = html.find("</script", at)) != std::string::npos;
       ++at) {
    ++ends;
  }
  EXPECT_EQ(ends, 3u);
  EXPECT_THAT(own, HasSubstr("\\u003c/script>"));
}

TEST(Report, AnEmptyStoreIsNoError) {
  const store::testing::TemporaryDirectory directory;
  const Summary summary =
      summarise(store::Store::open(directory / "trials.db"));
  EXPECT_EQ(to_json(summary)["ranking"].size(), 0u);
  EXPECT_EQ(ranking_table(summary), "no trials\n");
  EXPECT_GT(to_html(summary).size(), assets::plotly().size());
}

TEST(Report, UnfinishedTrialsAreListedWithAReasonForNoMultiplier) {
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  store::Trial trial = store::testing::make_trial("aa");
  trial.final_loss = NAN;
  trial.taxonomy = nullptr;
  store.add(trial);
  const base::Json row = to_json(summarise(store))["ranking"][0];
  EXPECT_TRUE(row["compute_multiplier"].is_null());
  EXPECT_TRUE(row["ci95"].is_null());
  EXPECT_THAT(row["note"].get<std::string>(), HasSubstr("training curve"));
  EXPECT_TRUE(row["omega"].is_null());
  EXPECT_EQ(row["status"], "1 queued");
  EXPECT_THAT(ranking_table(summarise(store)), HasSubstr("no training curve"));
}

TEST(Csv, QuotesWhatNeedsIt) {
  scaling::Run run;
  run.structure = "btt:0.25,alpha=0.33";
  run.name = "say \"hi\"";
  run.points = {{10, 2, NAN, 5}, {20, NAN, 1, 1}, {0, 3, 1, 1}};
  const auto read = scaling::parse_csv(points_csv({run}), "x");
  ASSERT_EQ(read.size(), 1u);
  EXPECT_EQ(read[0].structure, run.structure);
  EXPECT_EQ(read[0].name, run.name);
  ASSERT_EQ(read[0].points.size(), 1u);  // only usable points are written
}

}  // namespace
}  // namespace einforge::report
