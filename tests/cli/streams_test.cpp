#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "tests/base/temporary_directory.h"
#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

using testing::HasSubstr;

// einforge with redirections as a shell has them.
RunResult run_with(
    const std::string& redirections, const std::vector<std::string>& words) {
  std::vector<std::string> command = {
      "bash", "-c", "exec \"$0\" \"$@\" " + redirections, einforge_path()};
  command.insert(command.end(), words.begin(), words.end());
  return run_program(command);
}

const std::vector<std::vector<std::string>>& printing_commands() {
  static const std::vector<std::vector<std::string>> all = {
      {"--help"},
      {"--version"},
      {"help", "--man"},
      {"describe", "--list"},
      {"describe", "monarch", "--d-in", "64", "--json"},
      {"config", "train"},
      {"config", "--markdown"}};
  return all;
}

TEST(StreamsTest, AResultThatCannotBeWrittenIsAnError) {
  for (const auto& words : printing_commands()) {
    SCOPED_TRACE(words.front());
    const RunResult result = run_with("> /dev/full", words);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(
        result.err,
        "einforge: error: cannot write standard output: No space left on "
        "device\n");
    EXPECT_EQ(run_with("> /dev/full 2>&1", words).exit_code, 1);
  }
}

TEST(StreamsTest, ClosedStreamsEndNothing) {
  for (const auto& words : printing_commands()) {
    SCOPED_TRACE(words.front());
    for (const char* closed :
         {"0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "2> /dev/full"}) {
      EXPECT_EQ(run_with(closed, words).exit_code, 0) << closed;
    }
  }
  // The first reader closes the pipe.
  const RunResult piped = run_program(
      {"bash",
       "-c",
       "\"$0\" config --markdown 2>&1 | head -1; echo ${PIPESTATUS[0]}",
       einforge_path()});
  EXPECT_THAT(piped.out, HasSubstr("# Configuration reference\n"));
  EXPECT_THAT(piped.out, testing::MatchesRegex(".*\n[01]\n"));
}

TEST(StreamsTest, WordsNeverGetIntoDataFiles) {
  const base::testing::TemporaryDirectory folder;
  std::string text;
  for (int i = 0; i < 300; ++i) {
    text += "document " + std::to_string(i) + "\n";
  }
  base::write_file_atomically(folder / "text.txt", text);
  const std::string input = (folder / "text.txt").string();
  const auto prepare = [&](const std::string& closed, const char* name) {
    const RunResult result = run_with(
        closed,
        {"data",
         "prepare",
         input,
         "--document-separator",
         "line",
         "--out",
         (folder / name).string()});
    EXPECT_EQ(result.exit_code, 0) << closed << result.err;
    return base::read_file(folder / name / "train.bin");
  };
  const std::string expected = prepare("", "open");
  EXPECT_EQ(prepare("2>&-", "a"), expected);
  EXPECT_EQ(prepare("1>&- 2>&-", "b"), expected);
  EXPECT_EQ(prepare("0<&- 1>&- 2>&-", "c"), expected);
}

TEST(StreamsTest, JsonPrintsOrGoesToAFile) {
  const base::testing::TemporaryDirectory folder;
  const std::string path = (folder / "d.json").string();
  const std::vector<std::string> words = {
      "describe", "monarch", "--d-in", "1e3"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more.begin(), more.end());
    const RunResult result = run_einforge(all);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  const std::string json = with({"--json"});
  EXPECT_EQ(base::parse_json(json, "output")["d_in"], 1000);
  const std::string table = with({});
  EXPECT_EQ(with({"--json=" + path}), table);
  EXPECT_EQ(base::read_file(path), json);
  std::filesystem::remove(path);
  EXPECT_EQ(with({"--json", path}), table);
  EXPECT_EQ(base::read_file(path), json);
}

TEST(StreamsTest, ADashIsStandardInput) {
  const RunResult result = run_program(
      {"bash",
       "-c",
       "printf 'structure,run,compute,loss\\ndense,a,1,3\\ndense,a,2,2\\n' | "
       "\"$0\" fit - --bootstrap 0 --json",
       einforge_path()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"dense\""));
}

}  // namespace
}  // namespace einforge::cli
