#include "einforge/search/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "einforge/base/error.h"

#include "tests/base/test_name.h"

namespace einforge::search {
namespace {

using testing::HasSubstr;

std::string message_of(const base::Json& json) {
  try {
    SearchConfig config;
    config.budget.tokens = 1e6;
    base::update_from_json(config, json);
    config.validate();
  } catch (const base::InvalidInput& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(SearchConfig, DefaultsWithABudgetAreValid) {
  EXPECT_EQ(message_of(base::Json::object()), "nothing was thrown");
}

TEST(SearchConfig, RoundTripsThroughJson) {
  SearchConfig config;
  config.structures = {"monarch", "random:3"};
  config.widths = {64, 128};
  config.learning_rates = {1e-3, 3e-3};
  config.budget.flops = 1e12;
  config.scheduler.kind = "halving";
  config.train.model.layers = 2;
  SearchConfig copy;
  base::update_from_json(copy, base::to_json(config));
  EXPECT_EQ(config, copy);
}

struct BadCase {
  const char* json;
  const char* expected;
};

void PrintTo(const BadCase& bad, std::ostream* out) {
  *out << bad.json;
}

class SearchConfigErrors : public testing::TestWithParam<BadCase> {};

TEST_P(SearchConfigErrors, NameTheKeyAndWhatCame) {
  EXPECT_THAT(
      message_of(base::Json::parse(GetParam().json)),
      HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    SearchConfigErrors,
    testing::Values(
        BadCase{R"({"width": [64]})", "did you mean 'widths'"},
        BadCase{R"({"train": {"stepz": 3}})", "'train.stepz'"},
        BadCase{R"({"structures": []})", "structures: expected at least one"},
        BadCase{R"({"widths": [0]})", "widths: expected a whole number"},
        BadCase{R"({"widths": ["wide"]})", "widths: expected a whole number"},
        BadCase{R"({"layers": [-1]})", "layers: expected"},
        BadCase{R"({"learning_rates": [0]})", "learning_rates: expected"},
        BadCase{R"({"seeds": []})", "seeds: expected at least one"},
        BadCase{R"({"budget": {"flops": 1e9}})", "exactly one of tokens"},
        BadCase{R"({"budget": {"tokens": 0}})", "got 0"},
        BadCase{R"({"budget": {"tokens": -1}})", "got -1"},
        BadCase{
            R"({"scheduler": {"kind": "halfing"}})", "did you mean 'halving'"},
        BadCase{R"({"scheduler": {"within": "x"}})", "scheduler.within"},
        BadCase{R"({"scheduler": {"eta": 1}})", "scheduler.eta"},
        BadCase{R"({"scheduler": {"rungs": 0}})", "scheduler.rungs"},
        BadCase{
            R"({"scheduler": {"eta": 4294967296}})", "to 1000; got 4294967296"},
        BadCase{R"({"scheduler": {"eta": 1e300}})", "scheduler.eta"},
        BadCase{
            R"({"scheduler": {"trials": 9223372036854775807}})",
            "scheduler.trials"},
        BadCase{R"({"attempts": 4294967297})", "1000000; got 4294967297"},
        BadCase{R"({"curve_points": 9223372036854775807})", "curve_points"},
        BadCase{R"({"bootstrap": 4294967296})", "bootstrap"},
        BadCase{R"({"widths": [9223372036854775807]})", "widths"},
        BadCase{R"({"layers": [4294967296]})", "layers"},
        BadCase{R"({"scheduler": {"rungs": 99}})", "to 20; got 99"},
        BadCase{R"({"scheduler": {"trials": 0}})", "scheduler.trials"},
        BadCase{R"({"curve_points": 0})", "curve_points"},
        BadCase{R"({"warmup_share": 1})", "warmup_share"},
        BadCase{R"({"workers": 0})", "workers: expected"},
        BadCase{R"({"workers": 1000})", "to 256; got 1000"},
        BadCase{R"({"attempts": 0})", "attempts: expected"},
        BadCase{R"({"objective": "second"})", "objective: expected flops"},
        BadCase{R"({"constraints": ["memory"]})", "constraints: expected"},
        BadCase{
            R"({"objective": "memory", "confirm": {"top": 1}})",
            "confirm.top: expected an objective"},
        BadCase{R"({"out": ""})", "out: expected a folder"}),
    base::testing::TestName());

}  // namespace
}  // namespace einforge::search
