#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"

namespace einforge::structure {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const base::InvalidInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(Parse, NormalisesTheText) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"dense", "dense"},
      {" Dense ", "dense"},
      {"low_rank", "low_rank:0.5"},
      {"low-rank:0.750", "low_rank:0.75"},
      {"kronecker", "kronecker"},
      {"kronecker:alpha=0.33", "kronecker:alpha=1/3"},
      {"tensor_train", "tensor_train:0.25"},
      {"tensor_train:.5, alpha=.33, delta=.67",
       "tensor_train:0.5,alpha=1/3,delta=2/3"},
      {"monarch", "monarch"},
      {"monarch:alpha=0.25", "monarch:alpha=0.25"},
      {"btt", "btt:0.25"},
      {"BTT:0.50", "btt:0.5"},
      {"btt:rho=0.5", "btt:0.5"},
      {"btt:0.25,alpha=0.5,epsilon=0.5", "btt:0.25"},
      {"btt:0.25,alpha=0.33", "btt:0.25,alpha=1/3"},
      {"btt:0.25,alpha=0.33,epsilon=0.67", "btt:0.25,alpha=1/3"},
      {"btt:0.25,alpha=0.33,epsilon=0.33", "btt:0.25,alpha=1/3,epsilon=1/3"},
      {"btt:-0", "btt:0"},
      {"theta:0.5,0,0.5,0,0.5,0.5,0", "theta:0.5,0,0.5,0,0.5,0.5,0"},
      {"theta: .33, .33, .33, 0, 1, 0, .25", "theta:1/3,1/3,1/3,0,1,0,0.25"},
      {"theta:.33,.33,.34,0,1,0,.33", "theta:0.33,0.33,0.34,0,1,0,1/3"},
      {"theta:0.667,0.333,0,0,0.33,0.67,0", "theta:2/3,1/3,0,0,1/3,2/3,0"},
      {"btt_moe:E=16,k=2", "btt_moe:E=16,k=2"},
      {"BTT-MoE: k=1, E=8 ,rho=1", "btt_moe:E=8,k=1"},
      {"btt_moe:E=16", "btt_moe:E=16,k=2"},
      {"btt_moe:E=16,k=2,rho=4", "btt_moe:E=16,k=2,rho=4"},
      {"btt_moe:0.25,E=16,k=2", "btt_moe:0.25,E=16,k=2"},
      {"btt_moe:E=4,k=4,alpha=.33", "btt_moe:E=4,k=4,alpha=1/3"},
      {"dense_moe:E=1,k=1", "dense_moe:E=1,k=1"},
      {"low_rank_moe:E=8,k=2", "low_rank_moe:E=8,k=2"},
      {"low_rank_moe:0.25,E=8,k=2", "low_rank_moe:0.25,E=8,k=2"},
      {"low_rank_moe:1,E=8,k=2", "low_rank_moe:1,E=8,k=2"},
      {"low_rank_moe:E=8,k=2,rho=1", "low_rank_moe:0,E=8,k=2"},
      {"ffn-moe:E=8,k=2", "ffn_moe:E=8,k=2"},
  };
  for (const auto& [text, want] : cases) {
    SCOPED_TRACE(text);
    const Spec spec = parse(text);
    EXPECT_EQ(spec.text, want);
    EXPECT_EQ(spec.family, std::string(want).substr(0, spec.family.size()));
    EXPECT_EQ(parse(spec.text), spec);
    EXPECT_EQ(
        spec.dense,
        spec.family == "dense" || spec.family == "dense_moe" ||
            spec.family == "ffn_moe");
    EXPECT_EQ(spec.mixture.has_value(), spec.family.ends_with("_moe"));
    EXPECT_NO_THROW(validate(spec.theta));
  }
}

TEST(Parse, PadIsTheLastParameterOfAnyPairOfCores) {
  for (const auto& [text, normalised] :
       {std::pair{"monarch:pad", "monarch:pad"},
        {"btt:0.25, pad", "btt:0.25,pad"},
        {"kronecker:alpha=0.25,pad", "kronecker:alpha=0.25,pad"},
        {"theta:0.5,0,0.5,0,0.5,0.5,0,pad",
         "theta:0.5,0,0.5,0,0.5,0.5,0,pad"}}) {
    const Spec spec = parse(text);
    EXPECT_EQ(spec.text, normalised);
    EXPECT_TRUE(spec.pad);
    EXPECT_EQ(parse(spec.text), spec);
  }
  EXPECT_FALSE(parse("monarch").pad);
  for (const char* text :
       {"dense:pad",
        "btt_moe:E=4,pad",
        "btt:pad,0.25",
        "monarch:pad,pad",
        "theta:pad",
        "btt:pad=8"}) {
    EXPECT_THROW(parse(text), base::InvalidInput) << text;
  }
}

TEST(Parse, ThirdsAreThirdsAndNothingElseIs) {
  const auto rank = [](const std::string& text) {
    return parse("btt:" + text).theta.rho;
  };
  for (const char* text :
       {"0.33", ".33", "00.330", "3.3e-1", "0.333333", "1/3"}) {
    EXPECT_EQ(rank(text), 1.0 / 3) << text;
  }
  for (const char* text : {"0.66", "0.67", ".6667", "0.66666", "2/3"}) {
    EXPECT_EQ(rank(text), 2.0 / 3) << text;
  }
  EXPECT_EQ(rank("0.3"), 0.3);
  EXPECT_EQ(rank("0.7"), 0.7);
  EXPECT_EQ(rank("0.6"), 0.6);
  EXPECT_EQ(rank("0.34"), 0.34);
  EXPECT_EQ(rank("0.675"), 0.675);
}

TEST(Parse, ExpertsOfAMixtureAreLayersOfTheFamilyItIsNamedAfter) {
  const Spec btt = parse("btt_moe:E=16,k=2");
  EXPECT_EQ(btt.theta, parse("btt:0").theta);
  EXPECT_EQ(btt.mixture, (Mixture{16, 2}));
  EXPECT_EQ(btt.rank, std::nullopt);
  EXPECT_EQ(parse("btt_moe:E=16,k=2,rho=4").rank, 4);
  EXPECT_EQ(parse("btt_moe:0.5,E=16,k=2").theta, parse("btt:0.5").theta);
  EXPECT_EQ(parse("low_rank_moe:.5,E=8,k=1").theta, parse("low_rank").theta);
  EXPECT_TRUE(parse("low_rank_moe:E=8,k=1").shared_rank);
  EXPECT_EQ(parse("low_rank_moe:E=8,k=1,rho=1").theta.rho, 0);
  EXPECT_EQ(parse("dense_moe:E=8,k=1").theta, parse("dense").theta);
  EXPECT_EQ(parse("ffn_moe:E=8,k=1").theta, parse("dense").theta);
}

TEST(Parse, SaysWhatWasExpectedAndWhatCame) {
  const std::vector<std::pair<std::string, std::vector<const char*>>> cases = {
      {"", {"expected one of dense", "got ''"}},
      {"monarh", {"did you mean 'monarch'?", "got 'monarh'"}},
      {"tensortrain:0.5", {"did you mean 'tensor_train'?"}},
      {"xyzzy", {"expected one of", "'xyzzy'"}},
      {"dense:1", {"dense: expected no parameters", "'1'"}},
      {"btt:", {"expected parameters after the colon"}},
      {"btt:1.5", {"rank exponent", "from 0 to 1", "1.5"}},
      {"btt:-0.1", {"from 0 to 1", "-0.1"}},
      {"btt:nan", {"finite", "nan"}},
      {"btt:inf", {"finite", "inf"}},
      {"btt:half", {"expected a number", "'half'"}},
      {"btt:0.25x", {"expected a number", "'0.25x'"}},
      {"btt:0.25,0.5", {"key=value", "alpha, epsilon", "'0.5'"}},
      {"btt:0.25,delta=0.5", {"unknown parameter 'delta'", "epsilon"}},
      {"btt:0.25,rho=0.5", {"twice"}},
      {"btt:alpha=0.5,alpha=0.25", {"alpha is given twice"}},
      {"btt:0.25,alpha=", {"btt: alpha", "expected a number"}},
      {"btt:0.25,alpha=2", {"btt: alpha", "from 0 to 1", "2"}},
      {"btt:,", {"expected a number", "''"}},
      {"monarch:0.5", {"monarch", "key=value", "'0.5'"}},
      {"low_rank:0.5,alpha=1", {"unknown parameter 'alpha'"}},
      {"btt_moe", {"btt_moe: expected E=N", "got none"}},
      {"btt_moe:k=2", {"expected E=N", "got none"}},
      {"btt_moe:E=16,k=17", {"btt_moe: expected k", "E = 16", "17"}},
      {"ffn_moe:E=1", {"ffn_moe: expected k", "from 1 to E = 1", "got 2"}},
      {"btt_moe:E=0,k=1", {"btt_moe: E", "from 1 to 4096", "got 0"}},
      {"btt_moe:E=-4,k=1", {"btt_moe: E", "from 1 to 4096", "-4"}},
      {"btt_moe:E=4097,k=1", {"btt_moe: E", "from 1 to 4096", "4097"}},
      {"btt_moe:E=16,k=0", {"btt_moe: k", "from 1 to 4096", "got 0"}},
      {"btt_moe:E=2.5,k=1", {"btt_moe: E", "expected a whole", "2.5"}},
      {"btt_moe:E=,k=1", {"btt_moe: E", "expected a whole"}},
      {"btt_moe:E=8,E=8", {"btt_moe: E is given twice"}},
      {"btt_moe:E=8,rho=0", {"btt_moe: rho", "whole number from 1", "0"}},
      {"btt_moe:0.5,E=8,rho=2", {"rank exponent or a rank", "both"}},
      {"btt_moe:E=8,e=8", {"unknown parameter 'e'", "E, k, rho, alpha"}},
      {"dense_moe:16", {"dense_moe: expected key=value", "E, k", "'16'"}},
      {"dense_moe:E=16,rho=2", {"unknown parameter 'rho'", "E, k"}},
      {"ffn_moe:E=8,alpha=0.5", {"unknown parameter 'alpha'"}},
      {"btt_mow:E=8", {"did you mean 'btt_moe'?"}},
      {"btt:E=8", {"btt", "unknown parameter 'E'"}},
      {"theta", {"7 numbers", "none"}},
      {"theta:", {"parameters after the colon"}},
      {"theta:0.5,0,0.5,0,0.5,0.5", {"7 numbers", "got 6"}},
      {"theta:0.5,0,0.5,0,0.5,0.5,0,0", {"7 numbers", "got 8"}},
      {"theta:0.5,0,0.4,0,0.5,0.5,0", {"alpha + beta + gamma = 1", "0.9"}},
      {"theta:0.5,0,0.5,0,0.5,0.6,0", {"delta + epsilon + phi = 1", "1.1"}},
      {"theta:1.5,0,-0.5,0,0.5,0.5,0", {"from 0 to 1", "1.5"}},
      {"theta:0.5,0,0.5,0,0.5,0.5,nan", {"finite", "nan"}},
      {"theta:a,b,c,d,e,f,g", {"expected a number", "'a'"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    const std::string error = error_of(text);
    for (const char* part : parts) {
      EXPECT_THAT(error, HasSubstr(part));
    }
    EXPECT_THAT(error, Not(HasSubstr("\n")));
    EXPECT_LT(error.size(), 200U);
  }
}

TEST(Validate, NamesTheExponent) {
  const auto error = [](const Theta& theta) -> std::string {
    try {
      validate(theta);
    } catch (const base::InvalidInput& e) {
      return e.what();
    }
    return "no error";
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(error({0.5, 0, 0.5, 0, 0.5, 0.5, 2}), HasSubstr("rho"));
  EXPECT_THAT(error({nan, 0, 0.5, 0, 0.5, 0.5, 0}), HasSubstr("alpha"));
  EXPECT_EQ(error({0.5, 0, 0.5, 0, 0.5, 0.5, 0}), "no error");
  EXPECT_EQ(error({0.3333333, 0, 0.6666667, 0, 0.5, 0.5, 0}), "no error");
}

TEST(ToSpec, KnowsThePapersThirds) {
  EXPECT_EQ(
      to_spec({0.33, 0, 0.67, 0, 0.67, 0.33, 0.25}).text, "btt:0.25,alpha=1/3");
}

TEST(ToSpec, RoundTripsEveryPoint) {
  base::Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const Theta theta = sample(random);
    const Spec spec = to_spec(theta);
    EXPECT_EQ(parse(spec.text), spec);
    EXPECT_EQ(spec.theta, theta);
  }
  for (const Theta& theta : grid(6)) {
    const Spec spec = to_spec(theta);
    EXPECT_EQ(parse(spec.text), spec) << spec.text;
    EXPECT_EQ(spec.theta, theta) << spec.text;
  }
}

}  // namespace
}  // namespace einforge::structure
