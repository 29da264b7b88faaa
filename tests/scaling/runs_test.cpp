#include "einforge/scaling/runs.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "einforge/base/error.h"

namespace einforge::scaling {
namespace {

using ::testing::HasSubstr;

TEST(Csv, ReadsColumnsInAnyOrder) {
  const auto runs = parse_csv(
      "\xef\xbb\xbf# made by hand\r\n"
      "loss, extra,compute,run,structure,tokens,learning_rate,model\r\n"
      "\r\n"
      "3.5,x,1e3,a,dense,10,0.01,small\r\n"
      "3.25,\"x,\"\"y\"\"\",2e3,a,dense,20,0.01,small\r\n"
      "4,x,1e3,b,\"btt:0.25,alpha=0.33\",,,\n",
      "f.csv");
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].structure, "dense");
  EXPECT_EQ(runs[0].name, "a");
  EXPECT_EQ(runs[0].model, "small");
  EXPECT_EQ(runs[0].learning_rate, 0.01);
  ASSERT_EQ(runs[0].points.size(), 2u);
  EXPECT_EQ(runs[0].points[1].compute, 2000);
  EXPECT_EQ(runs[0].points[1].loss, 3.25);
  EXPECT_EQ(runs[0].points[1].tokens, 20);
  EXPECT_TRUE(std::isnan(runs[0].points[1].seconds));
  EXPECT_EQ(runs[1].structure, "btt:0.25,alpha=0.33");
  EXPECT_TRUE(std::isnan(runs[1].points[0].tokens));
}

TEST(Csv, SameRunNameInTwoStructuresIsTwoRuns) {
  EXPECT_EQ(
      parse_csv("structure,run,compute,loss\nx,a,1,1\ny,a,1,1\n", "f").size(),
      2u);
}

struct BadCsv {
  const char* name;
  std::string text;
  const char* expected;
};

class CsvRefuses : public ::testing::TestWithParam<BadCsv> {};

TEST_P(CsvRefuses, NamingTheLine) {
  try {
    parse_csv(GetParam().text, "f.csv");
    FAIL() << "nothing was thrown";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr(GetParam().expected));
    EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("\n")));
  }
}

const std::string kHeader = "structure,run,compute,loss\n";

INSTANTIATE_TEST_SUITE_P(
    ,
    CsvRefuses,
    ::testing::Values(
        BadCsv{"empty", "", "f.csv: expected a header and rows"},
        BadCsv{"onlyComments", "# a\n\n", "an empty file"},
        BadCsv{"onlyHeader", kHeader, "only a header"},
        BadCsv{
            "missingColumn",
            "structure,run,compute\na,b,1\n",
            "f.csv:1: expected the columns structure, run, compute and loss; "
            "got no 'loss'"},
        BadCsv{
            "misspeltColumn",
            "structure,run,comptue,loss\na,b,1,1\n",
            "did you mean 'comptue'?"},
        BadCsv{
            "columnTwice",
            "structure,run,compute,loss,seconds,seconds\na,b,1,1,1,2\n",
            "f.csv:1: expected one column 'seconds'; got two"},
        BadCsv{
            "fewFields",
            kHeader + "# c\na,b,1,1\na,b,1\n",
            "f.csv:4: expected 4 fields; got 3"},
        BadCsv{
            "manyFields", kHeader + "a,b,1,1,1\n", "expected 4 fields; got 5"},
        BadCsv{
            "textForNumber",
            kHeader + "a,b,lots,1\n",
            "f.csv:2: compute: expected a number; got 'lots'"},
        BadCsv{
            "emptyNumber",
            kHeader + "a,b,1,\n",
            "f.csv:2: loss: expected a number; got ''"},
        BadCsv{
            "nan",
            kHeader + "a,b,1,nan\n",
            "f.csv:2: loss: expected a finite number; got 'nan'"},
        BadCsv{
            "zeroCompute",
            kHeader + "a,b,0,1\n",
            "f.csv:2: compute: expected a number above 0; got '0'"},
        BadCsv{"negativeLoss", kHeader + "a,b,1,-2\n", "got '-2'"},
        BadCsv{"noStructure", kHeader + ",b,1,1\n", "f.csv:2: expected a"},
        BadCsv{
            "openQuote", kHeader + "\"a,b,1,1\n", "expected a closing quote"},
        BadCsv{
            "badOptional",
            "structure,run,compute,loss,seconds\na,b,1,1,-1\n",
            "f.csv:2: seconds: expected a number above 0"},
        BadCsv{
            "binary",
            std::string("\x00\x01\x02\xff", 4),
            "f.csv:1: expected the columns"}),
    [](const auto& item) { return item.param.name; });

TEST(Csv, AMissingFileIsNamed) {
  EXPECT_THROW(read_csv("/no/such/file.csv"), base::InvalidInput);
}

// The same name in two models is two runs; in one model, a second beginning is
// an error, since nothing else tells the runs apart.
TEST(Csv, RunsAreToldApartByModelAndRate) {
  const auto runs = parse_csv(
      "structure,run,model,learning_rate,parameters,compute,loss\n"
      "x,main,small,0.1,5,1,4\nx,main,small,0.1,5,2,3\n"
      "x,main,large,0.1,9,2,5\nx,main,large,0.2,9,2,5\n",
      "f");
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].points.size(), 2u);
  EXPECT_EQ(runs[0].parameters, 5);
  EXPECT_EQ(runs[2].learning_rate, 0.2);
}

std::string rows(const std::vector<double>& computes) {
  std::string text = "structure,run,compute,loss\n";
  for (const double compute : computes) {
    text += fmt::format("x,main,{},3\n", compute);
  }
  return text;
}

TEST(Csv, ASecondBeginningIsNamedByItsLine) {
  try {
    parse_csv(rows({1, 2, 3, 4, 1.5, 3, 4, 5, 1, 2, 3}), "f.csv");
    FAIL() << "nothing was thrown";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("f.csv:10: "));
  }
  // A resumed run goes back, and rows may be in any order.
  EXPECT_EQ(parse_csv(rows({1, 2, 3, 4, 3, 4, 5, 6}), "f").size(), 1u);
  EXPECT_EQ(parse_csv(rows({5, 2, 3, 1, 6, 4}), "f").size(), 1u);
  EXPECT_EQ(parse_csv(rows({6, 5, 4, 3, 2, 1}), "f").size(), 1u);
}

TEST(Metric, IsParsed) {
  EXPECT_EQ(parse_metric("seconds"), Metric::kSeconds);
  EXPECT_THROW(parse_metric("hours"), base::InvalidInput);
}

Run run_of(const char* model, double rate, double loss) {
  Run run;
  run.structure = "dense";
  run.model = model;
  run.learning_rate = rate;
  run.points = {{1, 9, 1, 1}, {2, loss, 2, 2}};
  return run;
}

TEST(BestLearningRates, KeepsTheBestOfEachModelWithAllItsSeeds) {
  const auto kept = best_learning_rates(
      {run_of("small", 0.1, 3.0),
       run_of("small", 0.1, 3.2),
       run_of("small", 0.2, 2.9),  // the luckiest run, but
       run_of("small", 0.2, 3.6),  // not the best rate
       run_of("large", 0.2, 2.0),
       run_of("large", 0.1, NAN),
       run_of("", 0.3, 5.0)});
  ASSERT_EQ(kept.size(), 4u);
  EXPECT_EQ(kept[0].learning_rate, 0.1);
  EXPECT_EQ(kept[1].learning_rate, 0.1);
  EXPECT_EQ(kept[2].model, "large");
  EXPECT_EQ(kept[2].learning_rate, 0.2);
  EXPECT_EQ(kept[3].model, "");
}

Run trained(double rate, double compute, double loss) {
  Run run = run_of("small", rate, loss);
  run.points = {{compute / 2, loss + 1, 1, 1}, {compute, loss, 2, 2}};
  return run;
}

std::vector<double> rates_of(const std::vector<Run>& runs) {
  std::vector<double> rates;
  for (const Run& run : runs) {
    rates.push_back(run.learning_rate);
  }
  return rates;
}

using ::testing::ElementsAre;

TEST(BestLearningRates, AreThoseOfEachBudget) {
  // 0.1 ran for three budgets, 0.2 for the longest alone: its low loss there
  // says nothing of 0.1, whose mean the short runs make high.
  EXPECT_THAT(
      rates_of(best_learning_rates(
          {trained(0.1, 10, 4),
           trained(0.1, 40, 3.5),
           trained(0.1, 160, 3),
           trained(0.2, 161, 3.1)})),
      ElementsAre(0.1, 0.1, 0.1));
  // A rate may be best for one budget and not for another.
  EXPECT_THAT(
      rates_of(best_learning_rates(
          {trained(0.1, 10, 4),
           trained(0.2, 10, 3.9),
           trained(0.1, 100, 3),
           trained(0.2, 100, 3.1)})),
      ElementsAre(0.2, 0.1));
}

TEST(BestLearningRates, WhatWasStoppedEarlyIsBeatenByWhatWentOn) {
  auto winner = trained(0.2, 100, 3);
  winner.points = {{10, 3.8, 1, 1}, {100, 3, 2, 2}};
  EXPECT_THAT(
      rates_of(best_learning_rates({trained(0.1, 10, 4), winner})),
      ElementsAre(0.2));
  winner.points[0].loss = 4.2;  // a schedule that is not done yet
  EXPECT_THAT(
      rates_of(best_learning_rates({trained(0.1, 10, 4), winner})),
      ElementsAre(0.1, 0.2));
}

TEST(BestLearningRates, PoolSeedsAndNothingElse) {
  auto other = trained(0.1, 100, 9);
  other.settings = "without weight decay";
  auto larger = trained(0.1, 100, 9);
  larger.parameters = 7;
  EXPECT_EQ(
      best_learning_rates(
          {trained(0.1, 100, 3), trained(0.2, 100, 4), other, larger})
          .size(),
      3u);
}

TEST(BestLearningRates, ADivergedSeedIsNoRateToChoose) {
  auto diverged = trained(0.2, 50, 2);
  diverged.diverged = true;
  const auto kept = best_learning_rates(
      {trained(0.1, 100, 3), trained(0.2, 100, 2.9), diverged});
  ASSERT_EQ(kept.size(), 2u);  // the diverged one is left for the count
  EXPECT_EQ(kept[0].learning_rate, 0.1);
  EXPECT_TRUE(kept[1].diverged);
}

}  // namespace
}  // namespace einforge::scaling
