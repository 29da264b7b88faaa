// The program itself: kill -9, signals, full disks, errors, text.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <string>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/base/random.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

class ProgramTest : public testing::Test {
 protected:
  ProgramTest() {
    base::Random random(3);
    std::ofstream text(root_ / "text.txt");
    for (int i = 0; i < 3000; ++i) {
      text << (i % 9 == 8 ? "\n\n" : "one two three ")
           << static_cast<char>('a' + random.below(26)) << ' ';
    }
    text.close();
    const CommandResult prepared = run(fmt::format(
        "data prepare {0}/text.txt --out {0}/data", root_.path().string()));
    EXPECT_EQ(prepared.code, 0) << prepared.output;
    std::ofstream(root_ / "tiny.toml") << fmt::format(
        R"(
steps = 400
eval_every = 50
eval_batches = 2
checkpoint_every = 20
device = "cpu"
[model]
width = 16
layers = 1
context = 16
[model.structure]
all = "monarch"
[data]
path = "{}/data"
batch_size = 4
)",
        root_.path().string());
  }

  // As `run`, what it writes to standard output alone: on a busy machine there
  // are warnings beside it.
  CommandResult run_for_output(const std::string& arguments) const {
    return run(arguments + " 2> /dev/null");
  }
  CommandResult run(const std::string& arguments) const {
    return run_command(
        "OMP_NUM_THREADS=1 EINFORGE_PROGRESS=0 " + einforge_program() + " " +
        arguments);
  }
  std::string train(const std::string& more) const {
    return fmt::format("train {}/tiny.toml {}", root_.path().string(), more);
  }
  std::string out(const std::string& name) const {
    return " --out " + (root_ / name).string();
  }

  TemporaryFolder root_;
};

void expect_one_line(const CommandResult& result, int code) {
  EXPECT_EQ(result.code, code) << result.output;
  EXPECT_NE(result.output.find("error: "), std::string::npos) << result.output;
  const auto last = result.output.rfind("einforge: error: ");
  EXPECT_EQ(result.output.find('\n', last), result.output.size() - 1)
      << result.output;
}

TEST_F(ProgramTest, TrainsAndWritesText) {
  const CommandResult trained =
      run_for_output(train("--set steps=30 --json") + out("run"));
  ASSERT_EQ(trained.code, 0) << trained.output;
  const base::Json json = base::Json::parse(trained.output);
  EXPECT_EQ(json["outcome"], "finished");
  EXPECT_EQ(json["steps"], 30);
  const std::string generate = fmt::format(
      "generate {} --prompt 'one t' --json", (root_ / "run").string());
  const CommandResult first =
      run_for_output(generate + " --tokens 40 --seed 1");
  ASSERT_EQ(first.code, 0) << first.output;
  EXPECT_EQ(
      base::Json::parse(first.output)["text"].get<std::string>().size(), 40U);
  EXPECT_EQ(
      run_for_output(generate + " --tokens 40 --seed 1").output, first.output);
  // Any folder from that of the run down to the checkpoint.
  for (const char* inner : {"/checkpoints", "/checkpoints/step_00000030"}) {
    const CommandResult same = run_for_output(fmt::format(
        "generate {}{} --prompt 'one t' --json --tokens 40 --seed 1",
        (root_ / "run").string(),
        inner));
    EXPECT_EQ(same.output, first.output) << inner;
  }
}

// The command that an interrupted run prints, given to a shell as it is.
TEST_F(ProgramTest, EverySignalLeavesACheckpointAndACommandThatGoesOn) {
  const std::string folder = (root_ / "it's a run; $HOME").string();
  fs::copy_file(root_ / "tiny.toml", root_ / "a config's.toml");
  for (const char* signal : {"INT", "TERM", "HUP"}) {
    SCOPED_TRACE(signal);
    fs::remove_all(folder);
    const CommandResult stopped = run_command(fmt::format(
        "export EINFORGE_PROGRESS=0 OMP_NUM_THREADS=1; {0} train \"{1}/a "
        "config's.toml\" --set steps=1000000 --set 'data.path={1}/data' "
        "--out \"{1}/it's a run; \\$HOME\" & "
        "until ls -d \"{1}/it's a run; \\$HOME\"/checkpoints/step_*; do "
        "sleep 0.05; done > /dev/null 2>&1; kill -{2} $!; wait $!",
        einforge_program(),
        root_.path().string(),
        signal));
    EXPECT_EQ(stopped.code, 130) << stopped.output;
    const auto begin = stopped.output.find("einforge train");
    ASSERT_NE(begin, std::string::npos) << stopped.output;
    std::string command =
        stopped.output.substr(begin, stopped.output.find('\n', begin) - begin);
    const auto until = fs::absolute(einforge_program()).parent_path().string();
    // A few steps more, not a million.
    command += " --set steps=$(($(ls -d \"" + root_.path().string() +
               "/it's a run; \\$HOME\"/checkpoints/step_* | tail -1 | grep -o "
               "'[0-9]*$' | sed 's/^0*//') + 3)) --json";
    const CommandResult resumed = run_command(
        "export EINFORGE_PROGRESS=0 OMP_NUM_THREADS=1 PATH=" + until +
        ":$PATH; " + command);
    EXPECT_EQ(resumed.code, 0) << command << "\n" << resumed.output;
    EXPECT_NE(resumed.output.find("finished"), std::string::npos)
        << resumed.output;
  }
}

TEST_F(ProgramTest, ADivergedRunIsAnErrorWithAReason) {
  const CommandResult result = run(
      train("--set optimizer.learning_rate=1e30 --set steps=30") + out("run"));
  expect_one_line(result, 1);
  EXPECT_NE(result.output.find("diverged"), std::string::npos);
  const CommandResult json =
      run(train("--set optimizer.learning_rate=1e30 --set steps=30 --json") +
          out("json"));
  EXPECT_EQ(json.code, 1);
  EXPECT_NE(json.output.find("\"diverged\""), std::string::npos);
}

// The threads' way of waiting is chosen before the runtime reads it, unless
// somebody has.
TEST_F(ProgramTest, LimitsHowLongThreadsSpin) {
  const auto environment = [&](const std::string& own) {
    return run_command(fmt::format(
        "unset OMP_WAIT_POLICY GOMP_SPINCOUNT; export EINFORGE_PROGRESS=0 {}; "
        "{} {} > /dev/null 2>&1 & "
        "until ls -d {}/checkpoints/step_*; do sleep 0.05; done > /dev/null "
        "2>&1; tr '\\0' '\\n' < /proc/$!/environ; kill -9 $!",
        own,
        einforge_program(),
        train("--set steps=1000000") + out("run" + own),
        (root_ / ("run" + own)).string()));
  };
  EXPECT_NE(
      environment("X=1").output.find("GOMP_SPINCOUNT="), std::string::npos);
  for (const char* own : {"OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT=7"}) {
    const std::string all = environment(own).output;
    EXPECT_NE(all.find(own), std::string::npos) << all;
    EXPECT_EQ(all.find("GOMP_SPINCOUNT=1000"), std::string::npos) << all;
  }
}

TEST_F(ProgramTest, ProfilesWithoutChangingTheRun) {
  const CommandResult plain = run(train("--set steps=30 --json") + out("a"));
  ASSERT_EQ(plain.code, 0) << plain.output;
  const CommandResult profiled =
      run(train("--set steps=30 --profile=4") + out("b"));
  ASSERT_EQ(profiled.code, 0) << profiled.output;
  EXPECT_NE(profiled.output.find("einforge::"), std::string::npos)
      << profiled.output;
  const auto summary =
      base::Json::parse(base::read_file(root_ / "b/profile_summary.json"));
  EXPECT_EQ(summary["steps"], 4);
  EXPECT_EQ(summary["rows_are"], "operators");
  EXPECT_GT(summary["step_milliseconds"], 0);
  EXPECT_TRUE(summary["gpu_idle_share"].is_null());
  EXPECT_GT(summary["rows"].size(), 5U);
  EXPECT_TRUE(base::Json::accept(base::read_file(root_ / "b/profile.json")));
  const fs::path weights = "checkpoints/step_00000030/model.safetensors";
  EXPECT_EQ(
      base::read_file(root_ / "a" / weights),
      base::read_file(root_ / "b" / weights));
  expect_one_line(run(train("--profile=0") + out("c")), 2);
  // 5 steps, the default; JSON alone on standard output.
  const CommandResult json =
      run_for_output(train("--set steps=3 --profile --json") + out("d"));
  ASSERT_EQ(json.code, 0) << json.output;
  EXPECT_EQ(base::Json::parse(json.output)["steps"], 3);
}

TEST_F(ProgramTest, SurvivesTwentyKills) {
  const CommandResult result = run_command(fmt::format(
      "{}/scripts/kill_test.sh {} {}/tiny.toml {}/data 20 1.2",
      source_folder().string(),
      einforge_program(),
      root_.path().string(),
      root_.path().string()));
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_NE(result.output.find("are the same"), std::string::npos);
}

TEST_F(ProgramTest, InterruptWritesACheckpointAndSaysHowToGoOn) {
  // Waits for the first checkpoint, so that the signal comes while training.
  const std::string folder = (root_ / "run").string();
  const CommandResult result = run_command(fmt::format(
      "EINFORGE_PROGRESS=0 OMP_NUM_THREADS=1 {} {} & "
      "until ls -d {}/checkpoints/step_*; do sleep 0.05; done > /dev/null 2>&1;"
      " kill -INT $!; wait $!",
      einforge_program(),
      train("--set steps=1000000") + out("run"),
      folder));
  EXPECT_EQ(result.code, 130) << result.output;
  const auto command = result.output.find("einforge train");
  ASSERT_NE(command, std::string::npos) << result.output;
  EXPECT_NE(result.output.find("--resume", command), std::string::npos);
  // The first checkpoint after those that are there: only then is the signal
  // sure to meet a program that handles it.
  const CommandResult resumed = run_command(fmt::format(
      "export EINFORGE_PROGRESS=0 OMP_NUM_THREADS=1; "
      "newest() {{ ls {2}/checkpoints | tail -1; }}; before=$(newest); "
      "{0} {1} & until [ \"$(newest)\" != \"$before\" ] || ! kill -0 $!; do "
      "sleep 0.05; done; kill -INT $!; wait $!",
      einforge_program(),
      train("--set steps=1000000 --resume --json") + out("run"),
      folder));
  EXPECT_NE(resumed.output.find("interrupted"), std::string::npos)
      << resumed.output;
}

TEST_F(ProgramTest, BadInputIsOneLineAndExitTwo) {
  for (const std::string& arguments : std::vector<std::string>{
           train("--set model.widht=4") + out("x"),
           train("--set model.width=\"four\"") + out("x"),
           train("--set model") + out("x"),
           train("--set steps=0") + out("x"),
           train("--set model.structure.all=monarhc") + out("x"),
           train("--set data.path=/nonexistent") + out("x"),
           train("--device tpu") + out("x"),
           "train /nonexistent.toml",
           "train",
           "generate /nonexistent",
           "generate " + root_.path().string(),
           "config nonsense",
       }) {
    SCOPED_TRACE(arguments);
    expect_one_line(run(arguments), 2);
  }
  const CommandResult misspelt = run(train("--set model.widht=4") + out("x"));
  EXPECT_NE(misspelt.output.find("'model.width'"), std::string::npos);
}

TEST_F(ProgramTest, MissingGpuIsOneLine) {
  if (run_command("nvidia-smi").code == 0) {
    GTEST_SKIP() << "there is a GPU here";
  }
  expect_one_line(run(train("--device cuda") + out("x")), 2);
}

TEST_F(ProgramTest, FullDiskKeepsEarlierCheckpoints) {
  // A limit on file sizes stands for a full disk: the same failed write(), and
  // no mount needed. The log outgrows it after the first checkpoints.
  const CommandResult result = run_command(fmt::format(
      "trap '' XFSZ; ulimit -f 128; EINFORGE_PROGRESS=0 {} {} {}",
      einforge_program(),
      train("--set steps=100000 --set log_every=1"),
      out("run")));
  expect_one_line(result, 1);
  EXPECT_NE(result.output.find("cannot write"), std::string::npos)
      << result.output;
  const CommandResult generated = run(fmt::format(
      "generate {} --prompt one --tokens 3", (root_ / "run").string()));
  EXPECT_EQ(generated.code, 0) << generated.output;
}

TEST_F(ProgramTest, APromptOfNumbersIsOneWithWhatFollows) {
  const CommandResult imported = run(fmt::format(
      "data import {0}/data/train.bin --vocab 96 --end-of-text 0 --out {0}/ids",
      root_.path().string()));
  ASSERT_EQ(imported.code, 0) << imported.output;
  const CommandResult trained = run(fmt::format(
      "train {0}/tiny.toml --set steps=1 --set data.path={0}/ids --json "
      "--out {0}/run",
      root_.path().string()));
  ASSERT_EQ(trained.code, 0) << trained.output;
  const CommandResult result = run(fmt::format(
      "generate {}/run --prompt '1 2 13' --tokens 2", root_.path().string()));
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(
      std::regex_match(result.output, std::regex("1 2 13 [0-9]+ [0-9]+ \n")))
      << result.output;
}

TEST_F(ProgramTest, ReferencePageHasNotDrifted) {
  const CommandResult page = run("config --markdown");
  ASSERT_EQ(page.code, 0) << page.output;
  EXPECT_EQ(
      page.output, base::read_file(source_folder() / "docs/configuration.md"))
      << "run: einforge config --markdown > docs/configuration.md";
}

TEST_F(ProgramTest, DefaultsAreAConfig) {
  const CommandResult toml = run("config train");
  ASSERT_EQ(toml.code, 0) << toml.output;
  std::ofstream(root_ / "all.toml") << toml.output;
  const CommandResult trained = run(fmt::format(
      "train {0}/all.toml --set steps=1 --set model.width=16 "
      "--set model.context=8 --set data.batch_size=1 --set eval_batches=1 "
      "--set data.path={0}/data --json --out {0}/all",
      root_.path().string()));
  EXPECT_EQ(trained.code, 0) << trained.output;
}

}  // namespace
}  // namespace einforge::train
