// What a command may write, and what it finds out before it works.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "tests/cli/bad_input.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::map<std::string, std::string> snapshot(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    files[entry.path().string()] =
        entry.is_regular_file() ? base::read_file(entry.path()) : "";
  }
  return files;
}

// Each is refused in one line, and no file is changed or made.
void check_refused(const std::vector<BadInput>& cases) {
  const World& world = World::get();
  const auto before = snapshot(world.path());
  check_all(cases);
  EXPECT_EQ(snapshot(world.path()), before);
}

RunResult run_in_world(const std::string& arguments) {
  return run_einforge(base::split(World::get().expand(arguments), ' '));
}

TEST(OutputsTest, WhatACommandReadsIsNotOverwritten) {
  const World& world = World::get();
  fs::create_symlink(
      world.expand("{}/trials.db"), world.expand("{}/link.html"));
  fs::create_directories(world.expand("{}/searched"));
  fs::copy_file(
      world.expand("{}/trials.db"), world.expand("{}/searched/trials.db"));
  const std::string what = "expected another file than those";
  const std::string model =
      "{}/run/checkpoints/step_00000002/model.safetensors";
  check_refused({
      {"report_out", "report {}/trials.db --out {}/trials.db", {"--out", what}},
      {"report_csv",
       "report {}/trials.db --csv {}/data/../trials.db",
       {"--csv", what}},
      {"report_json",
       "report {}/trials.db --json={}/link.html",
       {"--json", what}},
      {"report_points",
       "report {}/searched --points-csv {}/searched/trials.db",
       {"--points-csv", what}},
      {"fit_csv", "fit {}/runs.csv --csv {}/runs.csv", {"--csv", what}},
      {"fit_json", "fit {}/runs.csv --json={}/runs.csv", {"--json", what}},
      {"inspect",
       "data inspect {}/data --json={}/data/train.bin",
       {"--json", what}},
      {"prepare",
       "data prepare {}/text.txt --out {}/new --json={}/text.txt",
       {"--json", what}},
      {"prepare_folder",
       "data prepare {}/nanogpt --out {}/new --json={}/nanogpt/train.bin",
       {"--json", what}},
      {"prepare_tokenizer",
       "data prepare {}/text.txt --tokens {}/list.json --out {}/new "
       "--json={}/list.json",
       {"--json", what}},
      {"import",
       "data import {}/data/*.bin --out {}/new --json={}/data/train.bin",
       {"--json", what}},
      {"import_index",
       "data import {}/data/train.bin --out {}/new --json={}/data/train.idx",
       {"--json", what}},
      {"train",
       "train {}/gpt.toml --out {}/new --json={}/gpt.toml",
       {"--json", what}},
      {"search",
       "search {}/search.toml --out {}/new --json={}/search.toml",
       {"--json", what}},
      {"convert",
       "convert " + model + " --structure monarch --out " + model,
       {"--out", what}},
  });
}

TEST(OutputsTest, FilesOfFoldersThatAreMadeAreNoOutputs) {
  const std::string what = "expected another file than those";
  check_refused({
      {"train",
       "train {}/gpt.toml --out {}/new --json={}/new/log.jsonl",
       {what}},
      {"search",
       "search {}/search.toml --out {}/new --json={}/new/trials.db",
       {what}},
      {"prepare",
       "data prepare {}/text.txt --out {}/new --json={}/new/meta.json",
       {what}},
  });
}

TEST(OutputsTest, StoresCheckpointsAndDataAreNotOverwritten) {
  const std::string checkpoint = "{}/run/checkpoints/step_00000002";
  check_refused({
      {"store",
       "describe monarch --d-in 64 --json={}/trials.db",
       {"is a search's store"}},
      {"bench", "bench --json={}/trials.db", {"is a search's store"}},
      {"state",
       "config train --json=" + checkpoint + "/state.json",
       {"is a file of a checkpoint"}},
      {"model",
       "fit {}/runs.csv --csv " + checkpoint + "/model.safetensors",
       {"is a file of a checkpoint"}},
      {"run",
       "generate {}/run --json={}/run/config.json",
       {"is a file of a training run"}},
      {"data",
       "report {}/trials.db --out {}/data/val.bin",
       {"is a file of a data folder"}},
      {"tokenizer",
       "report {}/trials.db --out {}/data_foreign/tokenizer.json",
       {"is a file of a data folder"}},
      {"folder", "report {}/trials.db --out {}/data", {"got the folder"}},
  });
}

TEST(OutputsTest, TwoOutputsAreTwoFiles) {
  check_refused({
      {"same",
       "report {}/trials.db --out {}/z --csv {}/z",
       {"--out and --csv: expected two files; got"}},
      {"spelled_otherwise",
       "fit {}/runs.csv --csv {}/z --json={}/data/../z",
       {"--csv and --json: expected two files"}},
      {"standard_output",
       "fit {}/runs.csv --csv - --json",
       {"expected two files; got '-' twice"}},
  });
  EXPECT_EQ(
      run_in_world("report {}/trials.db --bootstrap 0 --out /dev/null --csv "
                   "/dev/null")
          .exit_code,
      0);
}

TEST(OutputsTest, AFolderOfAnotherKindIsNotTaken) {
  check_refused({
      {"train_in_data",
       "train {}/gpt.toml --out {}/data",
       {"expected a new folder or that of a training run; got a data folder"}},
      {"train_in_search",
       "train {}/gpt.toml --out {}/search_garbage",
       {"(it holds trials.db)"}},
      {"search_in_run",
       "search {}/search.toml --quiet --out {}/run",
       {"expected a new folder or that of a search", "holds config.json"}},
      {"search_in_data",
       "search {}/search.toml --quiet --out {}/data",
       {"got a data folder"}},
      {"data_in_run",
       "data prepare {}/text.txt --out {}/run",
       {"expected a new folder or a data folder; got the folder of a training "
        "run"}},
  });
}

// Nothing is measured, trained or printed before.
TEST(OutputsTest, AMissingFolderIsFoundBeforeTheWork) {
  const World& world = World::get();
  const auto before = snapshot(world.path());
  for (const char* arguments :
       {"report {}/trials.db --out /nonexist/x.html",
        "report {}/trials.db --out {}/new.html --json=/nonexist/x.json",
        "fit {}/runs.csv --csv /nonexist/x.csv",
        "train {}/gpt.toml --out {}/new --json=/nonexist/x.json",
        "search {}/search.toml --out {}/new --json=/nonexist/x.json",
        "data prepare {}/text.txt --out {}/new --json=/nonexist/x.json",
        "generate {}/run --json=/nonexist/x.json",
        "bench --json=/nonexist/x.json",
        "convert {}/run/checkpoints/step_00000002/model.safetensors "
        "--structure monarch --out /nonexist/o"}) {
    SCOPED_TRACE(arguments);
    const RunResult result = run_in_world(arguments);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(
        result.err,
        testing::AllOf(
            testing::StartsWith("einforge: error: cannot write '/nonexist/"),
            testing::EndsWith("No such file or directory\n")));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1);
  }
  EXPECT_EQ(snapshot(world.path()), before);
}

TEST(OutputsTest, ResultsMayGoIntoTheFolderThatIsMade) {
  const RunResult result =
      run_in_world("train {}/mlp.toml --out {}/beside --json={}/beside/r.json");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(World::get().read("beside/r.json"), HasSubstr("\"finished\""));
}

TEST(OutputsTest, ARefusedRunLeavesAndPrintsNothing) {
  const World& world = World::get();
  const auto before = snapshot(world.path());
  for (const char* setting :
       {"data.path={}/data_truncated",
        "data.path={}/data_without_val",
        "data.path={}/nowhere",
        "device=cuda:63"}) {
    const RunResult result = run_in_world(
        std::string("train {}/gpt.toml --json --out {}/deep/new --set ") +
        setting);
    EXPECT_NE(result.exit_code, 0) << setting;
    EXPECT_EQ(result.out, "") << setting;
  }
  EXPECT_EQ(snapshot(world.path()), before);
}

}  // namespace
}  // namespace einforge::cli
