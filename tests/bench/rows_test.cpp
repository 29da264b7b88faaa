#include "einforge/bench/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <chrono>
#include <map>
#include <stdexcept>
#include <thread>

#include "einforge/bench/layers.h"
#include "einforge/bench/suites.h"

namespace einforge::bench {
namespace {

using base::Json;
using torch::Tensor;

// A machine of 1 TFLOP/s and 10 GB/s.
Machine machine() {
  return {
      .repeats = 3,
      .timer = Timer(torch::kCPU),
      .ceilings = {.flops = 1e12, .bandwidth = 1e10}};
}

Json find(const Json& rows, const std::string& pass, const std::string& name) {
  for (const Json& row : rows) {
    if (row["pass"] == pass && row["implementation"] == name) {
      return row;
    }
  }
  return {};
}

TEST(Timer, MeasuresTheTimeOfTheWork) {
  Timer timer(torch::kCPU);
  const double time = timer.milliseconds(
      [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
  EXPECT_GE(time, 20);
  EXPECT_LT(time, 2000);
}

TEST(Timer, SummarisesByQuantiles) {
  const Times times =
      summarise({11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});  // in any order
  EXPECT_EQ(times.median, 6);
  EXPECT_EQ(times.min, 1);
  EXPECT_NEAR(times.spread, (10 - 2) / 6.0, 1e-12);
  EXPECT_EQ(summarise({7}).median, 7);
  EXPECT_EQ(summarise({1, 2}).median, 1.5);
}

TEST(Timer, LimitIsTheLargerOfTheTwo) {
  const Ceilings ceilings{.flops = 1e12, .bandwidth = 1e10};
  EXPECT_DOUBLE_EQ(limit_ms(ceilings, 5e9, 1e6), 5);
  EXPECT_DOUBLE_EQ(limit_ms(ceilings, 5e9, 1e8), 10);
}

TEST(Rows, HaveTheNumbersOfEveryImplementation) {
  const Suite suite{
      .structures = {"monarch"}, .widths = {{64, 256}}, .tokens = {40}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  for (const std::string pass : {"forward", "forward_backward"}) {
    for (const std::string name :
         {"dense", "einforge", "cpu_tiled", "merged", "bmm", "einsum"}) {
      const Json row = find(rows, pass, name);
      ASSERT_FALSE(row.is_null()) << pass << " " << name;
      EXPECT_EQ(row["structure"], "monarch");
      EXPECT_EQ(row["sizes"], (Json{8, 1, 8, 1, 16, 16, 1}));
      EXPECT_EQ(row["d_in"], 64);
      EXPECT_EQ(row["d_out"], 256);
      EXPECT_EQ(row["rank"], 1);
      EXPECT_EQ(row["tokens"], 40);
      EXPECT_EQ(row["dtype"], "float32");
      EXPECT_EQ(row["runs"], 3);
      EXPECT_GT(row["median_ms"], 0);
      EXPECT_LE(row["min_ms"], row["median_ms"]);
    }
  }
  EXPECT_EQ(rows.size(), 12);
  // x, y and weights, once: those of dense are 64 x 256, of monarch
  // 64 x 16 + 8 x 256.
  const Json dense = find(rows, "forward", "dense");
  EXPECT_NEAR(
      dense["limit_ms"].get<double>(),
      4.0 * (40 * (64 + 256) + 64 * 256) / 1e10 * 1e3,
      1e-9);
  EXPECT_EQ(dense["ratio_to_dense"], 1);
  const Json ours = find(rows, "forward_backward", "einforge");
  EXPECT_NEAR(
      ours["limit_ms"].get<double>(),
      4.0 * (40 * (3 * 64 + 2 * 256) + 3 * (64 * 16 + 8 * 256)) / 1e10 * 1e3,
      1e-9);
  EXPECT_NEAR(
      ours["tflops"].get<double>() * ours["median_ms"].get<double>() * 1e9,
      3 * 2.0 * 40 * (64 * 16 + 8 * 256),
      1);
}

TEST(Rows, OfCoverageShareTheDenseLayerOfTheirShape) {
  const Suite suite{
      .name = "coverage",
      .structures = {"monarch", "kronecker"},
      .widths = {{64, 64}, {64, 256}},
      .tokens = {40}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  std::map<std::string, double> dense;
  int others = 0;
  for (const Json& row : rows) {
    ASSERT_FALSE(row.contains("error")) << row.dump();
    const std::string shape = row["d_out"].dump() + row["pass"].dump();
    const auto ms = row["median_ms"].get<double>();
    if (row["implementation"] == "dense") {
      EXPECT_TRUE(dense.emplace(shape, ms).second) << shape;
    } else {
      ++others;
      EXPECT_DOUBLE_EQ(
          row["ratio_to_dense"].get<double>(), dense.at(shape) / ms);
    }
  }
  EXPECT_EQ(dense.size(), 4);
  EXPECT_EQ(others, 8);
}

TEST(Rows, OfDecodingHaveWhatInferenceGives) {
  const Suite suite{
      .name = "decode",
      .structures = {"monarch"},
      .widths = {{64, 64}},
      .tokens = {1}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  EXPECT_GT(find(rows, "forward", "inference")["median_ms"], 0);
  EXPECT_TRUE(find(rows, "forward_backward", "einforge").is_null());
}

TEST(Rows, OfMixturesCountTheirRouterAndActiveExperts) {
  const Suite suite{
      .name = "moe",
      .structures = {"btt_moe:E=4,k=2"},
      .widths = {{64, 64}},
      .tokens = {200}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  std::map<std::string, double> shares;
  for (const Json& row : rows) {
    ASSERT_FALSE(row.contains("error")) << row.dump();
    EXPECT_EQ(row["experts"], 4);
    EXPECT_EQ(row["active"], 2);
    shares[row["routing"]] = row["largest_share"].get<double>();
    if (row["implementation"] == "einforge" && row["pass"] == "forward") {
      EXPECT_NEAR(
          row["tflops"].get<double>() * row["median_ms"].get<double>() * 1e9,
          2.0 * 200 * (2 * (64 * 8 + 8 * 64) + 64 * 4),
          1);
    }
  }
  EXPECT_EQ(shares["one_expert"], 1);
  EXPECT_LT(shares["uniform"], 0.75);
  EXPECT_GT(shares["zipf"], shares["uniform"]);
  EXPECT_EQ(find(rows, "forward", "dense")["ratio_to_dense"], 1);
}

TEST(Rows, OfAFeedForwardMixtureEndAtTheWidthTheyBeganWith) {
  const Suite suite{
      .structures = {"ffn_moe:E=4,k=1", "dense_moe:E=2,k=2"},
      .widths = {{16, 32}},
      .tokens = {50}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  ASSERT_EQ(rows.size(), 2 * 2 * 2);
  for (const Json& row : rows) {
    ASSERT_FALSE(row.contains("error")) << row.dump();
  }
  // FLOPs of one expert and the router: 16 x 32 + 32 x 16 + 16 x 4.
  const Json both = find(rows, "forward", "einforge");
  EXPECT_NEAR(
      both["tflops"].get<double>() * both["median_ms"].get<double>() * 1e9,
      2.0 * 50 * (16 * 32 + 32 * 16 + 16 * 4),
      1);
}

TEST(Rows, TakeOnlyTheImplementationsAskedFor) {
  const Suite suite{
      .widths = {{64, 64}},
      .tokens = {8},
      .implementations = {"bmm", "einforge"}};
  Machine on = machine();
  const Json rows = measure_layers(
      layer_cases(suite, /*cuda=*/false), on, [](const std::string&) {});
  ASSERT_EQ(rows.size(), 4);
  EXPECT_TRUE(find(rows, "forward", "dense").is_null());
  EXPECT_FALSE(find(rows, "forward", "bmm").contains("ratio_to_dense"));
}

TEST(Rows, AFailureCostsOneRow) {
  const auto linear = [](const Tensor& x) { return x * 2; };
  int calls = 0;
  const Problem problem{
      .labels = {{"structure", "s"}, {"d_in", 4}, {"d_out", 4}, {"tokens", 2}},
      .d_in = 4,
      .d_out = 4,
      .tokens = 2,
      .passes = {Pass::kForward},
      .implementations = {
          {.name = "dense", .layer = linear},
          {.name = "broken",
           .layer = [&calls](const Tensor&) -> Tensor {
             ++calls;
             throw std::runtime_error("out of memory\nmore");
           }},
          {.name = "late",
           .layer =
               [count = 0, linear](const Tensor& x) mutable {
                 TORCH_CHECK(++count < 4, "the fourth time");
                 return linear(x);
               }},
          {.name = "good", .layer = linear}}};
  Machine on = machine();
  Json rows = Json::array();
  measure(problem, on, rows);
  ASSERT_EQ(rows.size(), 4);
  EXPECT_EQ(rows[1]["error"], "out of memory");
  EXPECT_FALSE(rows[1].contains("median_ms"));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(rows[2]["error"], "the fourth time");
  EXPECT_GT(rows[3]["median_ms"], 0);
  const std::string table = to_table(
      {{"device",
        {{"name", "test"}, {"matmul_tflops", 1}, {"copy_gb_per_s", 2}}},
       {"rows", rows}});
  EXPECT_THAT(table, ::testing::HasSubstr("out of memory\n"));
}

TEST(Rows, NamesTheKernelsThatRan) {
  Machine on = machine();
  for (const auto& [structure, kernels] : std::map<std::string, Json>{
           {"monarch", {"cpu_tiled"}}, {"low_rank:0.5", {"two_linears"}}}) {
    const LayerCase which{
        .layer = structure::realise(structure::parse(structure), 64, 64),
        .tokens = 16};
    const Json rows = measure_layers({which}, on, [](const std::string&) {});
    int seen = 0;
    for (const Json& row : rows) {
      if (row["implementation"] == "einforge") {
        EXPECT_EQ(row["kernels"], kernels) << structure;
        ++seen;
      } else if (row["implementation"] == "bmm") {
        EXPECT_EQ(row["kernels"], Json({"bmm"})) << structure;
      } else if (row["implementation"] == "dense") {
        EXPECT_FALSE(row.contains("kernels")) << structure;
      }
    }
    EXPECT_EQ(seen, 2);
    const std::string table = to_table(
        {{"device",
          {{"name", "test"}, {"matmul_tflops", 1}, {"copy_gb_per_s", 2}}},
         {"rows", rows}});
    EXPECT_THAT(
        table, ::testing::HasSubstr("  " + kernels[0].get<std::string>()));
  }
}

TEST(Rows, ALayerThatCannotBeBuiltHasARowToo) {
  LayerCase which{
      .layer = structure::realise(structure::parse("monarch"), 64, 64),
      .tokens = -1};
  Machine on = machine();
  const Json rows = measure_layers({which}, on, [](const std::string&) {});
  ASSERT_EQ(rows.size(), 2);
  EXPECT_FALSE(rows[0]["error"].get<std::string>().empty());
  EXPECT_EQ(rows[1]["pass"], "forward_backward");
}

}  // namespace
}  // namespace einforge::bench
