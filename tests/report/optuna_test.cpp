#include "einforge/report/optuna.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace einforge::report {
namespace {

using Json = nlohmann::json;  // equal in any order of keys
using store::Status;

TrialRecord record(
    const std::string& structure,
    int width,
    double rate,
    Status status,
    const std::vector<double>& losses) {
  store::Trial trial;
  trial.id = structure + std::to_string(width);
  trial.structure = structure;
  trial.model = "gpt";
  trial.parameters = 100 * width;
  trial.learning_rate = rate;
  trial.status = status;
  trial.config = {{"model", {{"width", width}, {"layers", 2}}}, {"seed", 0}};
  trial.taxonomy = {{"omega", 0.25}, {"psi", 1}};
  std::vector<store::CurvePoint> curve;
  for (const double loss : losses) {
    const auto step = static_cast<std::int64_t>(10 * curve.size());
    curve.push_back(
        {.step = step,
         .tokens = 64 * step,
         .flops = 1e6 * static_cast<double>(step),
         .seconds = 0.5 * static_cast<double>(step),
         .train_loss = loss,
         .val_loss = loss});
  }
  if (!curve.empty()) {
    trial.flops = curve.back().flops;
    trial.seconds = curve.back().seconds;
    trial.final_loss = status == Status::kDone ? curve.back().val_loss : NAN;
  }
  return make_record(trial, curve);
}

std::vector<Json> lines_of(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(Json::parse(line));
  }
  return lines;
}

// The keys and values of operations that Optuna 5.0 writes itself, for trials
// that were added with create_trial().
TEST(OptunaJournal, HasTheOperationsOfOptuna) {
  Summary summary;
  summary.metadata = {{"name", "mine"}, {"started", "2026-01-02T03:04:05Z"}};
  summary.trials = {
      record("dense", 64, 1e-3, Status::kDone, {4, 3}),
      record("monarch", 128, 4e-3, Status::kPruned, {4, 3.5}),
      record("btt:0.25", 64, 1e-3, Status::kFailed, {})};
  const std::vector<Json> lines = lines_of(optuna_journal(summary));
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(
      lines[0],
      (Json{
          {"op_code", 0},
          {"worker_id", "einforge"},
          {"study_name", "mine"},
          {"directions", {1}}}));
  const Json& dense = lines[1];
  EXPECT_EQ(dense["op_code"], 4);
  EXPECT_EQ(dense["study_id"], 0);
  EXPECT_EQ(dense["state"], 1);
  EXPECT_EQ(dense["value"], 3.0);
  EXPECT_TRUE(dense["values"].is_null());
  EXPECT_EQ(dense["datetime_start"], "2026-01-02T03:04:05+00:00");
  EXPECT_EQ(dense["datetime_complete"], "2026-01-02T03:04:05+00:00");
  EXPECT_EQ(
      dense["params"],
      (Json{
          {"structure", 0.0},
          {"width", 64.0},
          {"layers", 2.0},
          {"seed", 0.0},
          {"learning_rate", 1e-3}}));
  EXPECT_EQ(dense["intermediate_values"], (Json{{"0", 4.0}, {"10", 3.0}}));
  EXPECT_EQ(dense["user_attrs"]["FLOPs"], 1e7);
  EXPECT_EQ(dense["user_attrs"]["seconds"], 5.0);
  EXPECT_EQ(dense["user_attrs"]["omega"], 0.25);
  const auto distribution = [&](const char* name) {
    return Json::parse(dense["distributions"][name].get<std::string>());
  };
  EXPECT_EQ(
      distribution("structure"),
      (Json{
          {"name", "CategoricalDistribution"},
          {"attributes", {{"choices", {"dense", "monarch", "btt:0.25"}}}}}));
  EXPECT_EQ(
      distribution("width"),
      (Json{
          {"name", "IntDistribution"},
          {"attributes",
           {{"log", false}, {"step", 1}, {"low", 64}, {"high", 128}}}}));
  EXPECT_EQ(
      distribution("learning_rate"),
      (Json{
          {"name", "FloatDistribution"},
          {"attributes",
           {{"log", true},
            {"step", nullptr},
            {"low", 1e-3},
            {"high", 4e-3}}}}));

  EXPECT_EQ(lines[2]["state"], 2);
  EXPECT_TRUE(lines[2]["value"].is_null());
  EXPECT_EQ(lines[2]["params"]["structure"], 1.0);
  EXPECT_EQ(lines[3]["state"], 3);
  // The second study has what ended alone.
  EXPECT_EQ(lines[4]["directions"], (Json{1, 1, 1}));
  EXPECT_EQ(lines[5]["study_id"], 1);
  EXPECT_EQ(lines[5]["values"], (Json{3.0, 1e7, 5.0}));
}

TEST(OptunaJournal, OfNoTrials) {
  EXPECT_EQ(lines_of(optuna_journal({})).size(), 2U);
}

}  // namespace
}  // namespace einforge::report
