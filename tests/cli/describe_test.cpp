#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using base::Json;
using ::testing::HasSubstr;

Json described(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "describe");
  arguments.emplace_back("--json");
  const RunResult result = run_einforge(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return Json::parse(result.out);
}

TEST(Describe, PrintsTheLayerAsJson) {
  const Json json =
      described({"btt:0.25", "--d-in", "1024", "--d-out", "4096"});
  EXPECT_EQ(json["structure"], "btt:0.25");
  EXPECT_EQ(json["d_in"], 1024);
  EXPECT_EQ(json["d_out"], 4096);
  // By hand: 1024 = 32 x 32, 4096 = 64 x 64, 1024^0.25 = 5.7.
  const Json sizes = {
      {"alpha", 32},
      {"beta", 1},
      {"gamma", 32},
      {"delta", 1},
      {"epsilon", 64},
      {"phi", 64},
      {"rho", 6}};
  EXPECT_EQ(json["sizes"], sizes);
  EXPECT_EQ(json["theta"].size(), 7U);
  EXPECT_NEAR(json["theta"][0].get<double>(), 0.5, 1e-12);
  EXPECT_EQ(json["theta_asked"][6], 0.25);
  const std::int64_t parameters = 32 * 32 * 64 * 6 + 32 * 64 * 64 * 6;
  EXPECT_EQ(json["parameters"], parameters);
  EXPECT_EQ(json["macs"], parameters);
  EXPECT_EQ(json["flops"], 2 * parameters);
  EXPECT_EQ(json["dense_macs"], 1024 * 4096);
  EXPECT_EQ(json["dense_parameters"], 1024 * 4096);
  EXPECT_EQ(json["rank"], 1024);
  EXPECT_EQ(json["omega"], 0.0);
  EXPECT_EQ(json["psi"], 1.0);
  EXPECT_EQ(json["asymptotic"]["nu"], 0.75);
  EXPECT_EQ(json["order"], "AB");
  ASSERT_EQ(json["cores"].size(), 2U);
  EXPECT_EQ(json["cores"][0]["d_in"], 32);
  EXPECT_EQ(json["cores"][1]["d_in"], 32 * 6);
  EXPECT_EQ(json["cores"][0]["lr_multiplier"], 768.0 / 32 / 2);
}

TEST(Describe, TakesTheInputWidthForTheOutput) {
  const Json json = described({"dense", "--d-in", "100"});
  EXPECT_EQ(json["d_out"], 100);
  EXPECT_EQ(json["cores"].size(), 1U);
  EXPECT_EQ(json["macs"], 10000);
}

TEST(Describe, CountsTheActiveExpertsAndTheRouterOfAMixture) {
  const Json json = described({"btt_moe:E=16,k=2", "--d-in", "1024"});
  EXPECT_EQ(json["structure"], "btt_moe:E=16,k=2");
  EXPECT_EQ(json["experts"], 16);
  EXPECT_EQ(json["active"], 2);
  // By hand: an expert has two cores of 32 blocks of 32 x 32.
  const std::int64_t expert = 2 * 32 * 32 * 32;
  const std::int64_t router = 16 * 1024;
  EXPECT_EQ(json["expert"]["parameters"], expert);
  EXPECT_EQ(json["expert"]["macs"], expert);
  EXPECT_EQ(json["router"]["parameters"], router);
  EXPECT_EQ(json["router"]["init_std"], 0);
  EXPECT_EQ(json["router"]["lr_multiplier"], 0.75);
  EXPECT_EQ(json["parameters"], 16 * expert + router);
  EXPECT_EQ(json["macs"], 2 * expert + router);
  EXPECT_EQ(json["flops"], 2 * (2 * expert + router));
  EXPECT_EQ(json["dense_macs"], 1024 * 1024);
  EXPECT_EQ(json["sizes"]["rho"], 1);
  EXPECT_LT(json["omega"], 0);
  EXPECT_FALSE(described({"btt", "--d-in", "64"}).contains("experts"));

  const RunResult text =
      run_einforge({"describe", "ffn_moe:E=8,k=2", "--d-in", "64"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, HasSubstr("experts     8, of which a token takes 2"));
  EXPECT_THAT(text.out, HasSubstr("router      512 parameters"));
  EXPECT_THAT(text.out, HasSubstr("feed-forward"));
}

TEST(Describe, HonoursMultipleAndTolerance) {
  const auto alpha = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"monarch", "--d-in", "960"});
    return described(more)["sizes"]["alpha"].get<int>();
  };
  EXPECT_EQ(alpha({}), 24);
  EXPECT_EQ(alpha({"--multiple", "1"}), 30);
  const RunResult result = run_einforge(
      {"describe", "monarch", "--d-in", "32", "--tolerance", "0.05"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("got 32, which has none"));
}

TEST(Describe, ListsNamedStructuresAndThePapersSweep) {
  const Json json = described({"--list"});
  EXPECT_EQ(json["paper_sweep"].size(), 23U);
  std::set<std::string> families;
  for (const Json& row : json["structures"]) {
    families.insert(row["family"]);
    EXPECT_EQ(row["theta"].size(), 7U);
    EXPECT_TRUE(row["omega"].is_number());
  }
  EXPECT_EQ(
      families,
      (std::set<std::string>{
          "dense",
          "low_rank",
          "kronecker",
          "tensor_train",
          "monarch",
          "btt",
          "dense_moe",
          "ffn_moe",
          "low_rank_moe",
          "btt_moe"}));
}

// What the documentation shows is what the program prints.
TEST(Describe, TheDocumentationShowsRealOutput) {
  const char* source = std::getenv("EINFORGE_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  const std::string docs = std::string(source) + "/docs";
  const std::string page = base::read_file(docs + "/structures.md") +
                           base::read_file(docs + "/moe.md");
  const auto trimmed_lines = [](const std::string& text) {
    std::string result;
    for (const char c : text) {
      if (c == '\n') {
        result.erase(result.find_last_not_of(' ') + 1);
      }
      result += c;
    }
    return result;
  };
  const std::vector<std::vector<std::string>> commands = {
      {"describe", "--list"},
      {"describe", "btt:0.25", "--d-in", "768", "--d-out", "3072"},
      {"describe", "btt_moe:E=16,k=2", "--d-in", "1024"},
      {"describe", "monarch", "--d-in", "1021"}};
  for (const auto& arguments : commands) {
    const RunResult result = run_einforge(arguments);
    std::string shown = "$ einforge";
    for (const std::string& argument : arguments) {
      shown += " " + argument;
    }
    EXPECT_THAT(
        page, HasSubstr(shown + "\n" + trimmed_lines(result.out + result.err)));
  }
}

TEST(Describe, TheTextNamesWhatItShows) {
  const RunResult result = run_einforge(
      {"describe", "theta:0.5,0,0.5,0,0.5,0.5,0.6", "--d-in", "64"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* word :
       {"omega",
        "psi",
        "nu",
        "parameters",
        "MACs",
        "rank",
        "core A",
        "core B",
        "degenerate"}) {
    EXPECT_THAT(result.out, HasSubstr(word));
  }
  EXPECT_EQ(result.err, "");
}

}  // namespace
}  // namespace einforge::cli
