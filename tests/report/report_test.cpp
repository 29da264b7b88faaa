#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "einforge/report/csv.h"
#include "einforge/report/json.h"
#include "einforge/report/notices.h"
#include "einforge/report/ranking.h"
#include "einforge/report/summary.h"
#include "tests/report/demo_store.h"
#include "tests/store/temporary_store.h"

namespace einforge::report {
namespace {

using ::testing::Contains;
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
  int covered = 0;
  int rivals = 0;
  for (const base::Json& row : json["ranking"]) {
    const double multiplier = row["compute_multiplier"];
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
    const double low = row["ci95"][0];
    const double high = row["ci95"][1];
    EXPECT_TRUE(row["wall_clock_multiplier"].is_number());
    if (row["structure"] != summary_->baseline) {
      ++rivals;
      covered += low <= truth->advantage && truth->advantage <= high ? 1 : 0;
      EXPECT_LT(low, high);
      EXPECT_LT(std::log(high / low), std::log(1.6)) << row["structure"];
    }
  }
  // Of six 95% intervals two miss the truth once in thirty times.
  EXPECT_EQ(rivals, 6);
  EXPECT_GE(covered, 5);
  EXPECT_EQ(json["ranking"][0]["structure"], "monarch");
  EXPECT_EQ(json["ranking"].back()["structure"], "kronecker");
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

TEST(Report, AnEmptyStoreIsNoError) {
  const store::testing::TemporaryDirectory directory;
  const Summary summary =
      summarise(store::Store::open(directory / "trials.db"));
  EXPECT_EQ(to_json(summary)["ranking"].size(), 0u);
  EXPECT_EQ(ranking_table(summary), "no trials\n");
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
  EXPECT_THAT(row["note"].get<std::string>(), HasSubstr("usable curve"));
  EXPECT_TRUE(row["omega"].is_null());
  EXPECT_EQ(row["status"], "1 queued");
  EXPECT_THAT(ranking_table(summarise(store)), HasSubstr("no training curve"));
}

// A trial that diverged after the lowest loss of all, one that failed, and one
// that an older trainer took for done.
TEST(Report, LossesOfDivergedTrialsAreNobodysBest) {
  using store::Status;
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  testing::add_trial(
      store, "a0", "dense", Status::kDone, {4.6, 3.0, 2.5, 2.3, 2.2});
  testing::add_trial(
      store, "b0", "monarch", Status::kDone, {4.6, 3.1, 2.6, 2.4, 2.3});
  testing::add_trial(
      store, "b1", "monarch", Status::kDiverged, {4.6, 1.0, 9, 20}, 0.1);
  testing::add_trial(
      store, "b2", "monarch", Status::kFailed, {4.6, 1.1, 1.05}, 0.2);
  testing::add_trial(
      store, "b3", "monarch", Status::kDone, {4.6, 1.2, 70, 3.3e9}, 0.3);
  testing::add_trial(store, "c0", "btt:0.25", Status::kDiverged, {4.6, 1, 30});
  const Summary summary = summarise(store, {.bootstrap = 20});
  const base::Json json = to_json(summary);
  EXPECT_EQ(json["trials"][4]["status"], "diverged");
  EXPECT_THAT(
      json["trials"][4]["reason"].get<std::string>(),
      ::testing::AllOf(HasSubstr("3.3e+09"), HasSubstr("4.6")));
  for (const base::Json& row : json["ranking"]) {
    if (row["structure"] == "monarch") {
      EXPECT_EQ(row["best_trial"], "b0");
      EXPECT_EQ(row["best_loss"], 2.3);
      EXPECT_EQ(row["status"], "1 done, 1 failed, 2 diverged");
    } else if (row["structure"] == "btt:0.25") {
      EXPECT_TRUE(row["best_loss"].is_null());
      EXPECT_TRUE(row["compute_multiplier"].is_null());
    }
  }
  for (const auto& structure : json["fits"]["flops"]["structures"]) {
    EXPECT_GE(structure["best_loss"].get<double>(), 2.2);
  }
  ASSERT_EQ(summary.best_by_compute.rows.size(), 2u);
  EXPECT_GE(summary.best_by_compute.rows[1].loss, 2.2);
  EXPECT_THAT(points_csv(to_runs(summary.trials)), Not(HasSubstr("b1")));
  EXPECT_THAT(
      ranking_table(summary), HasSubstr("Of 6 trials, 3 diverged, 1 failed"));
}

// A first rung may end above where it began.
TEST(Report, WhatStoppedAtARungIsWhatTheStoreSays) {
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  testing::add_trial(
      store, "a0", "dense", store::Status::kDone, {4.6, 3.0, 2.5, 2.3});
  testing::add_trial(
      store, "a1", "dense", store::Status::kPruned, {4.6, 8.0}, 0.1);
  const base::Json json = to_json(summarise(store, {.bootstrap = 20}));
  EXPECT_EQ(json["trials"][1]["status"], "pruned");
  EXPECT_EQ(json["ranking"][0]["best_trial"], "a0");
}

TEST(Report, SaysWhatIsBestAtTheBudgetThatAllReached) {
  using store::Status;
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  testing::add_trial(
      store, "a0", "dense", Status::kDone, {4.6, 3.0, 2.5, 2.3, 2.2, 2.1});
  testing::add_trial(
      store, "a1", "dense", Status::kDone, {4.6, 2.9, 2.7, 2.6}, 0.01);
  testing::add_trial(
      store, "b0", "monarch", Status::kDone, {4.6, 3.1, 2.45, 2.47});
  const Summary summary = summarise(store, {.bootstrap = 20});
  // Monarch has spent 3 MFLOPs at its end, dense 5.
  EXPECT_EQ(summary.best_by_compute.budget, 3e6);
  ASSERT_EQ(summary.best_by_compute.rows.size(), 2u);
  const BestAtBudget& first = summary.best_by_compute.rows[0];
  EXPECT_EQ(first.structure, "dense");
  EXPECT_EQ(first.loss, 2.3);
  EXPECT_EQ(first.cost, 3e6);
  EXPECT_EQ(first.tokens, 3000);
  const BestAtBudget& second = summary.best_by_compute.rows[1];
  EXPECT_EQ(second.loss, 2.45);  // measured at 2 MFLOPs, better than at 3
  EXPECT_EQ(second.cost, 2e6);
  EXPECT_EQ(summary.best_by_seconds.budget, 1.5);
  const base::Json json = to_json(summary)["best_at_budget"]["flops"];
  EXPECT_EQ(json["budget"], 3e6);
  EXPECT_EQ(json["structures"][0]["learning_rate"], 3e-3);
  EXPECT_EQ(json["structures"][0]["trial"], "a0");
}

TEST(Report, ListsThetaUnderTheNameThatDescribeHas) {
  const store::testing::TemporaryDirectory directory;
  testing::make_sweep_store(directory / "trials.db");
  const Summary summary = summarise(
      store::Store::open_read_only(directory / "trials.db"),
      {.baseline = "dense", .bootstrap = 0});
  ASSERT_EQ(summary.ranking.size(), 24u);
  std::vector<std::string> names;
  for (const RankedStructure& row : summary.ranking) {
    names.push_back(row.structure);
  }
  for (const structure::Theta& theta : structure::paper_sweep()) {
    EXPECT_THAT(names, ::testing::Contains(structure::to_spec(theta).text));
  }
}

std::string notices_of(
    const std::vector<std::pair<std::string, double>>& trials) {
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  int count = 0;
  for (const auto& [structure, rate] : trials) {
    // The larger the rate the lower the loss.
    testing::add_trial(
        store,
        fmt::format("t{}", count++),
        structure,
        store::Status::kDone,
        {4.6, 3, 2 - rate},
        rate);
  }
  std::string text;
  for (const std::string& notice : summarise(store, {.bootstrap = 0}).notices) {
    text += notice + "\n";
  }
  return text;
}

TEST(Notices, TellOfOneLearningRateAndOfRatesAtTheEndOfTheRange) {
  EXPECT_THAT(
      notices_of({{"dense", 0.01}, {"monarch", 0.01}}),
      HasSubstr("one learning rate, 0.01"));
  EXPECT_THAT(
      notices_of({{"dense", 0.01}, {"dense", 0.02}, {"monarch", 0.01}}),
      ::testing::AllOf(
          Not(HasSubstr("one learning rate")),
          HasSubstr("smallest or the largest tried for dense:")));
  EXPECT_THAT(
      notices_of({{"monarch", 0.01}}), HasSubstr("no trial of 'dense'"));
}

TEST(Notices, TellOfTrialsThatAreNotOver) {
  const store::testing::TemporaryDirectory directory;
  store::Store store = store::Store::open(directory / "trials.db");
  store.add(store::testing::make_trial("aa"));
  EXPECT_THAT(ranking_table(summarise(store)), HasSubstr("1 trial not over"));
}

TEST(Report, TheSentenceToQuoteIsUnderTheTable) {
  scaling::Analysis analysis;
  analysis.baseline = "dense";
  analysis.headline = "monarch";
  auto& monarch = analysis.structures.emplace_back();
  monarch.structure = "monarch";
  monarch.multiplier = 2.5;
  monarch.multiplier_ci95 = scaling::Interval{2.25, 2.75};
  monarch.multiplier_shown = true;
  const auto sentence = [&](scaling::Metric metric) {
    analysis.metric = metric;
    return fit_table(analysis);
  };
  EXPECT_THAT(
      sentence(scaling::Metric::kFlops),
      HasSubstr("\nmonarch reaches dense's loss with 2.5 times less compute "
                "(95% interval 2.25 to 2.75)\n"));
  EXPECT_THAT(
      sentence(scaling::Metric::kSeconds), HasSubstr("2.5 times less time"));
  EXPECT_THAT(
      sentence(scaling::Metric::kTokens), HasSubstr("2.5 times fewer tokens"));
}

// Three sizes of two structures, each of which falls past where the next has
// taken over; the other one needs half as much.
std::vector<TrialRecord> tangent_trials() {
  std::vector<TrialRecord> trials;
  for (const char* structure : {"dense", "other"}) {
    const double cost = structure == std::string("dense") ? 1 : 0.5;
    for (int size = 0; size < 3; ++size) {
      store::Trial trial =
          store::testing::make_trial(fmt::format("{}{}", structure, size));
      trial.structure = structure;
      trial.model = fmt::format("size {}", size);
      trial.status = store::Status::kDone;
      std::vector<store::CurvePoint> curve;
      for (int i = 0; i <= 50; ++i) {
        const double x = 0.1 * i - 2;
        store::CurvePoint point;
        point.step = i;
        point.flops = cost * std::exp(x + 2 * size);
        point.seconds = point.flops;
        point.val_loss = std::exp(0.25 * (x - 1) * (x - 1) - size);
        curve.push_back(point);
      }
      trials.push_back(make_record(trial, curve));
    }
  }
  return trials;
}

TEST(Report, SecondsOfABusyMachineAreNoResult) {
  const auto with_load = [](double load) {
    return summarise(
        tangent_trials(), {{"hardware", {{"load", load}}}}, {.bootstrap = 50});
  };
  const auto shown = [](const scaling::Analysis& analysis) {
    return std::ranges::count(
        analysis.structures,
        true,
        &scaling::StructureAnalysis::multiplier_shown);
  };
  const Summary idle = with_load(0.1);
  EXPECT_EQ(shown(idle.wall_clock), 1);
  EXPECT_THAT(idle.notices, Not(Contains(HasSubstr("Other programs"))));
  const Summary busy = with_load(0.35);
  EXPECT_THAT(
      busy.notices,
      Contains("Other programs used 35% of the machine while the search ran: "
               "its seconds are no result."));
  EXPECT_EQ(shown(busy.wall_clock), 0);
  EXPECT_FALSE(busy.wall_clock.headline);
  EXPECT_THAT(busy.wall_clock.headline_note, HasSubstr("no result"));
  EXPECT_EQ(shown(busy.compute), 1);
  EXPECT_EQ(busy.compute.headline, idle.compute.headline);
}

// A multiplier of exactly 1 is none of the baseline's.
TEST(Report, WhatWasNotShownIsMarkedWhateverItsMultiplier) {
  scaling::Analysis analysis;
  analysis.baseline = "dense";
  for (const char* name : {"dense", "alt"}) {
    scaling::StructureAnalysis structure;
    structure.structure = name;
    structure.multiplier = 1;
    analysis.structures.push_back(structure);
  }
  const std::string table = fit_table(analysis);
  EXPECT_THAT(table, ::testing::ContainsRegex("alt +1x\\?"));
  EXPECT_THAT(table, ::testing::ContainsRegex("dense +1x "));
  EXPECT_THAT(table, HasSubstr("? was not shown"));
}

TEST(Notices, CountRunsThatEndEarlyOnlyWhereThereIsALaw) {
  Summary summary;
  summary.baseline = "dense";
  summary.trials.emplace_back();
  for (const bool has_law : {false, true}) {
    auto& structure = summary.compute.structures.emplace_back();
    structure.structure = has_law ? "dense" : "other";
    structure.run_analyses.resize(3);
    for (scaling::RunAnalysis& run : structure.run_analyses) {
      run.touch = scaling::Touch::kEndsBefore;
    }
    if (has_law) {
      structure.law.emplace();
      EXPECT_THAT(
          notices(summary),
          Contains(HasSubstr("3 of 3 runs end before they touch")));
    } else {
      EXPECT_THAT(notices(summary), Not(Contains(HasSubstr("end before"))));
    }
  }
}

TEST(Report, TerminalTableObeysNoNameAndCutsLongOnes) {
  const store::testing::TemporaryDirectory directory;
  testing::make_hostile_store(directory / "trials.db");
  const Summary summary = summarise(
      store::Store::open_read_only(directory / "trials.db"), {.bootstrap = 20});
  for (const std::string& text :
       {ranking_table(summary), fit_table(summary.compute)}) {
    EXPECT_EQ(std::count(text.begin(), text.end(), '\x1b'), 0);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\x07'), 0);
    EXPECT_THAT(text, HasSubstr("\\x1b]0;title"));
    EXPECT_THAT(text, Not(HasSubstr("\u202e")));
    EXPECT_THAT(text, Not(HasSubstr(std::string(100, 'W'))));
  }
  // And JSON is JSON.
  EXPECT_FALSE(
      base::Json::parse(dump(to_json(summary)), nullptr, false).is_discarded());
}

TEST(Csv, KeepsSpreadsheetsAndTerminalsFromRunningNames) {
  scaling::Analysis analysis;
  for (const char* name :
       {"=1+1",
        "+x",
        "-x",
        "@x",
        "plain",
        "a,\"b\"",
        "two\nlines",
        "\x1b[31mred"}) {
    scaling::StructureAnalysis structure;
    structure.structure = name;
    structure.best_loss = 2;
    structure.multiplier = -1;  // a number is no formula
    analysis.structures.push_back(structure);
  }
  const std::string csv = ranking_csv(analysis);
  for (const char* line :
       {"\n'=1+1,",
        "\n'+x,",
        "\n'-x,",
        "\n'@x,",
        "\nplain,-1.0,",
        "\n\"a,\"\"b\"\"\",",
        "\ntwo\\nlines,",
        "\n\\x1b[31mred,"}) {
    EXPECT_THAT(csv, HasSubstr(line));
  }
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 9);
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
