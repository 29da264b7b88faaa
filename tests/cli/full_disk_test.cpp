#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/store/store.h"
#include "tests/cli/program.h"
#include "tests/cli/world.h"

namespace einforge::cli {
namespace {

namespace fs = std::filesystem;

void expect_one_line(const RunResult& result, const std::string& message) {
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(
      result.err,
      testing::AllOf(
          testing::StartsWith("einforge: error: "),
          testing::HasSubstr(message)));
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
}

// Every file below the folder with its bytes.
std::map<std::string, std::string> snapshot(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files[entry.path().string()] = base::read_file(entry.path());
    }
  }
  return files;
}

// Whether this process may mount in a namespace of its own, as root may.
bool can_mount() {
  return run_program({"unshare", "-m", "true"}).exit_code == 0;
}

// Runs einforge where `setup`, shell commands that see the folder as $0, have
// mounted something over the folder.
RunResult run_mounted(
    const std::string& folder,
    const std::string& setup,
    const std::string& arguments) {
  std::vector<std::string> command = {
      "unshare",
      "-m",
      "sh",
      "-c",
      "set -e; " + setup + "; exec \"$@\"",
      folder,
      einforge_path()};
  const auto rest = base::split(World::get().expand(arguments), ' ');
  command.insert(command.end(), rest.begin(), rest.end());
  return run_program(command);
}

// Full from the start: even the smallest file finds no room.
constexpr const char* kFull =
    "mount -t tmpfs -o size=16k tmpfs \"$0\"; "
    "cat /dev/zero > \"$0\"/filler 2> /dev/null || true";
constexpr const char* kReadOnly =
    "mount --bind \"$0\" \"$0\"; mount -o remount,ro,bind \"$0\"";

struct Writer {
  const char* name;
  const char* arguments;  // {}: the world; writes below {}/mount
};

const std::vector<Writer>& writers() {
  static const std::vector<Writer> all = {
      {"data",
       "data prepare {}/text.txt --document-separator line --out {}/mount/d"},
      {"train", "train {}/gpt.toml --json --out {}/mount/r"},
      {"search", "search {}/search.toml --quiet --out {}/mount/s"},
      {"fit", "fit {}/runs.csv --bootstrap 0 --csv {}/mount/fit.csv"},
      {"report", "report {}/trials.db --out {}/mount/report.html"},
  };
  return all;
}

TEST(FullDiskTest, AFullDiskIsOneLine) {
  if (!can_mount()) {
    GTEST_SKIP() << "may not mount a small tmpfs (needs root)";
  }
  const World& world = World::get();
  fs::create_directories(world.expand("{}/mount"));
  for (const Writer& writer : writers()) {
    SCOPED_TRACE(writer.name);
    expect_one_line(
        run_mounted(world.expand("{}/mount"), kFull, writer.arguments),
        "No space left on device");
  }
}

TEST(FullDiskTest, AReadOnlyFolderIsOneLine) {
  if (!can_mount()) {
    GTEST_SKIP() << "may not mount a folder read-only (needs root)";
  }
  const World& world = World::get();
  fs::create_directories(world.expand("{}/mount"));
  for (const Writer& writer : writers()) {
    SCOPED_TRACE(writer.name);
    expect_one_line(
        run_mounted(world.expand("{}/mount"), kReadOnly, writer.arguments),
        "Read-only file system");
  }
}

TEST(FullDiskTest, AFolderBelowAFileIsOneLine) {
  const World& world = World::get();
  for (const Writer& writer : writers()) {
    SCOPED_TRACE(writer.name);
    std::string arguments = world.expand(writer.arguments);
    const std::string mount = world.expand("{}/mount");
    arguments.replace(
        arguments.find(mount), mount.size(), world.expand("{}/text.txt"));
    expect_one_line(
        run_einforge(base::split(arguments, ' ')), "Not a directory");
  }
}

TEST(FullDiskTest, DataKeepsTheOldFolder) {
  const World& world = World::get();
  const auto before = snapshot(world.expand("{}/data"));
  const RunResult result = run_einforge(
      base::split(
          world.expand("data prepare {}/text.txt --out {}/data --val-share 0.5 "
                       "--document-separator line"),
          ' '),
      {.file_bytes = 4096});
  expect_one_line(result, "File too large");
  EXPECT_EQ(snapshot(world.expand("{}/data")), before);
}

TEST(FullDiskTest, TrainingKeepsItsCheckpoints) {
  const World& world = World::get();
  const auto train = [&](const std::string& more, const RunLimits& limits) {
    return run_einforge(
        base::split(
            world.expand("train {}/gpt.toml --json --out {}/run_full " + more),
            ' '),
        limits);
  };
  ASSERT_EQ(train("--set steps=2", {}).exit_code, 0);
  const auto before = snapshot(world.expand("{}/run_full/checkpoints"));
  ASSERT_FALSE(before.empty());
  // Less than a checkpoint's tensors, more than its JSON and logs.
  expect_one_line(
      train("--set steps=4 --resume", {.file_bytes = 16'384}),
      "File too large");
  EXPECT_EQ(snapshot(world.expand("{}/run_full/checkpoints")), before);
  EXPECT_EQ(train("--set steps=4 --resume", {}).exit_code, 0);
}

TEST(FullDiskTest, SearchKeepsItsTrials) {
  const World& world = World::get();
  const auto search = [&](const std::string& more, const RunLimits& limits) {
    return run_einforge(
        base::split(
            world.expand(
                "search {}/search.toml --quiet --out {}/search_full " + more),
            ' '),
        limits);
  };
  ASSERT_EQ(search("--set widths=[16]", {}).exit_code, 0);
  const auto done = [&] {
    int count = 0;
    for (const store::Trial& trial :
         store::Store::open_read_only(world.expand("{}/search_full/trials.db"))
             .trials()) {
      count += trial.status == store::Status::kDone ? 1 : 0;
    }
    return count;
  };
  ASSERT_EQ(done(), 2);
  // The store cannot grow: the two new trials may not be lost track of.
  const RunResult full = search("--json", {.file_bytes = 4096});
  EXPECT_EQ(full.exit_code, 1) << full.err;
  EXPECT_THAT(full.err, testing::StartsWith("einforge: error: "));
  EXPECT_GE(done(), 2);
  EXPECT_EQ(search("--json", {}).exit_code, 0);
  EXPECT_EQ(done(), 4);
}

}  // namespace
}  // namespace einforge::cli
