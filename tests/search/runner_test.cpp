// The search's end of its workers, with workers that train nothing: this
// program again, doing what EINFORGE_FAKE_WORKER says.

#include "einforge/search/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/search/folder.h"
#include "einforge/search/process.h"
#include "einforge/search/scheduler.h"
#include "tests/search/promises.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kLease = 1;  // seconds
constexpr const char* kBehaviour = "EINFORGE_FAKE_WORKER";

// ---- the worker ----

void say(const base::Json& event) {
  std::printf("%s\n", event.dump().c_str());
  std::fflush(stdout);
}

bool first_of(const std::filesystem::path& marker) {
  return std::filesystem::create_directory(marker);
}

void train(
    const Folder& folder, const std::string& id, const std::string& how) {
  store::Store store = store::Store::open(folder.store());
  const double lease = how == "stop_once" ? kLease : NAN;
  const std::optional<Trial> claimed =
      how == "refuse" ? std::nullopt
                      : store.claim(id, process_name(::getpid()), lease);
  if (!claimed) {
    say({{"event", "refused"}, {"trial", id}});
    return;
  }
  say({{"event", "start"}, {"trial", id}, {"target", 10}});
  Trial trial = *claimed;
  if (how == "die") {
    ::kill(::getpid(), SIGKILL);
  }
  if (how == "stop_once" && first_of(folder.root / "stopped")) {
    ::raise(SIGSTOP);
  }
  if (how == "leave") {
    std::exit(0);
  }
  if (how == "garbage") {
    std::printf("[1, 2\n{\"event\": 7}\n\xff\xfe\n");
  }
  trial.status = Status::kDone;
  trial.rung = 1;
  trial.final_loss = 1;
  store.update(trial);
  say({{"event", "end"}, {"trial", id}});
}

int fake_worker(
    const std::string& how, const Folder& folder, const std::string& device) {
  if (how == "exit") {
    std::fprintf(stderr, "cannot load a library\n");
    return 3;
  }
  if (how == "exit_clean") {
    return 0;
  }
  if (how == "note_device") {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    std::ofstream(folder.root / "devices", std::ios::app)
        << device << (visible == nullptr ? "" : std::string(" of ") + visible)
        << "\n";
    ::pause();
  }
  const bool first = first_of(folder.root / "first");
  if (how == "hang" || (how == "only_one_starts" && !first)) {
    ::pause();
  }
  if (how == "only_one_lives" && !first) {
    return 3;
  }
  say({{"event", "idle"}});
  if (how == "idle_exit") {
    return 0;
  }
  char line[100];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    std::string id = std::string(line).substr(6);
    id.pop_back();
    train(folder, id, how);
    say({{"event", "idle"}});
  }
  return 0;
}

[[maybe_unused]] const bool is_worker = [] {
  const char* how = std::getenv(kBehaviour);
  if (how == nullptr) {
    return false;
  }
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string program;
  std::string folder;
  std::string threads;
  std::string device;
  for (std::string* word : {&program, &folder, &threads, &device}) {
    std::getline(file, *word, '\0');
  }
  std::_Exit(fake_worker(how, Folder{folder}, device));
}();

// ---- the search ----

class RunnerTest : public ::testing::Test {
 protected:
  RunnerTest() {
    config_ = testing::mlp_config(folder_ / "out");
    options_.worker_command = {"/proc/self/exe"};
    options_.quiet = true;
    options_.patience = 20;
  }
  ~RunnerTest() override { ::unsetenv(kBehaviour); }

  RunResult run(const char* how) {
    ::setenv(kBehaviour, how, 1);
    const std::vector<Proposal> proposals = propose(config_);
    ::testing::internal::CaptureStderr();
    try {
      const RunResult result = search::run(config_, proposals, options_);
      err_ = ::testing::internal::GetCapturedStderr();
      return result;
    } catch (...) {
      err_ = ::testing::internal::GetCapturedStderr();
      throw;
    }
  }

  // The one line that ends the search.
  std::string failure(const char* how) {
    try {
      run(how);
    } catch (const base::IoError& error) {
      EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
      return error.what();
    }
    ADD_FAILURE() << "the search did not end with an error";
    return "";
  }

  std::vector<Trial> trials() {
    return store::Store::open_read_only(Folder{config_.out}.store()).trials();
  }

  testing::TemporaryFolder folder_;
  SearchConfig config_;
  RunOptions options_;
  std::string err_;
};

TEST_F(RunnerTest, TrainsAllWithAnyNumberOfWorkers) {
  for (const int workers : {1, 2, 3, 24}) {
    config_.workers = workers;
    config_.out = (folder_ / std::to_string(workers)).string();
    const RunResult result = run("train");
    EXPECT_FALSE(result.interrupted);
    EXPECT_EQ(result.done, 4);
    EXPECT_EQ(result.total, 4);
    const base::Json metadata =
        store::Store::open_read_only(Folder{config_.out}.store()).metadata();
    EXPECT_GE(metadata.at("elapsed_seconds").get<double>(), 0);
    EXPECT_LE(metadata.at("started"), metadata.at("finished"));
  }
}

TEST_F(RunnerTest, WorkersTakeTheDevicesInTurn) {
  // What each of the workers has, in any order.
  const auto devices = [&] {
    const auto noted = [&] {
      std::istringstream lines(
          testing::read(Folder{config_.out}.root / "devices"));
      std::multiset<std::string> result;
      for (std::string line; std::getline(lines, line);) {
        result.insert(line);
      }
      return result;
    };
    options_.should_stop = [&] {
      return static_cast<std::int64_t>(noted().size()) == config_.workers;
    };
    std::filesystem::remove_all(config_.out);
    run("note_device");
    return noted();
  };
  using Devices = std::multiset<std::string>;
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  config_.workers = 4;
  config_.devices = {"cuda:0", "cuda:1"};
  EXPECT_EQ(devices(), (Devices{"cuda:0", "cuda:0", "cuda:1", "cuda:1"}));

  // Trials of two processes: each worker sees the GPUs of its own.
  config_.workers = 3;
  config_.processes_per_trial = 2;
  config_.devices = {"cuda:0", "cuda:1", "cuda:3", "cuda:2"};
  EXPECT_EQ(devices(), (Devices{"cuda of 0,1", "cuda of 0,1", "cuda of 3,2"}));
  ::setenv("CUDA_VISIBLE_DEVICES", "7,5,4,6", 1);
  EXPECT_EQ(devices(), (Devices{"cuda of 7,5", "cuda of 7,5", "cuda of 6,4"}));
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  config_.devices = {"cpu", "cpu"};
  EXPECT_EQ(devices(), (Devices{"cpu", "cpu", "cpu"}));
}

// Those that have not started when all is done are not missed.
TEST_F(RunnerTest, AllIsDoneBeforeTheOtherWorkersStarted) {
  config_.workers = 24;
  const RunResult result = run("only_one_starts");
  EXPECT_FALSE(result.interrupted);
  EXPECT_EQ(result.done, 4);
}

TEST_F(RunnerTest, GoesOnWithTheWorkersThatStart) {
  testing::promise(
      "Three workers in a row that exit before they train anything stop the "
      "search with one line, unless other workers train.");
  config_.workers = 3;
  config_.learning_rates = {1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3};
  EXPECT_EQ(run("only_one_lives").done, 24);
}

TEST_F(RunnerTest, WorkersThatCannotStartAreOneLine) {
  for (const int workers : {1, 4}) {
    config_.workers = workers;
    EXPECT_THAT(
        failure("exit"),
        AllOf(HasSubstr("exit code 3"), HasSubstr("workers.log")));
  }
  EXPECT_THAT(
      testing::read(Folder{config_.out}.log()),
      HasSubstr("cannot load a library"));
  EXPECT_THAT(failure("exit_clean"), HasSubstr("exit code 0"));
  EXPECT_THAT(failure("idle_exit"), HasSubstr("exit code 0"));
  options_.worker_command = {"/no/such/program"};
  EXPECT_THAT(failure("train"), HasSubstr("exit code 127"));
  // Nothing is lost by it.
  options_.worker_command = {"/proc/self/exe"};
  EXPECT_EQ(run("train").done, 4);
}

TEST_F(RunnerTest, WorkersThatHangAtTheirStartAreOneLine) {
  testing::promise(
      "A worker that says nothing for five minutes while it starts or stops is "
      "killed.");
  EXPECT_EQ(RunOptions{}.patience, 300);
  options_.patience = 0.2;
  EXPECT_THAT(failure("hang"), HasSubstr("no word in 0.2 s"));
}

TEST_F(RunnerTest, TrialsThatAreNeverClaimedAreOneLine) {
  EXPECT_THAT(failure("refuse"), HasSubstr("cannot claim"));
}

TEST_F(RunnerTest, ATrialThatKillsItsWorkersFails) {
  testing::promise(
      "A trial whose workers die `attempts` times is recorded as failed with "
      "the reason.");
  config_.attempts = 2;
  for (const char* how : {"die", "leave"}) {
    config_.out = (folder_ / how).string();
    const RunResult result = run(how);
    EXPECT_EQ(result.failed, 4);
    for (const Trial& trial : trials()) {
      EXPECT_EQ(trial.status, Status::kFailed);
      EXPECT_THAT(trial.reason, HasSubstr("exited 2 times"));
    }
  }
}

TEST_F(RunnerTest, WhatWorkersPrintBesidesEventsIsIgnored) {
  EXPECT_EQ(run("garbage").done, 4);
}

// As after the lock of a folder was lost: the other's trial is not waited for
// without end.
TEST_F(RunnerTest, ATrialThatAnotherSearchHoldsIsOneLine) {
  options_.patience = 0.5;
  config_.widths = {16};
  config_.structures = {"dense"};
  const std::vector<Proposal> proposals = propose(config_);
  std::filesystem::create_directories(config_.out);
  {
    store::Store store = store::Store::open(Folder{config_.out}.store());
    store.add(proposals[0].trial);
    store.claim(proposals[0].trial.id, process_name(::getpid()));
  }
  EXPECT_THAT(
      failure("train"),
      AllOf(HasSubstr("dense"), HasSubstr(process_name(::getpid()))));
}

// Its lease ends, another trains its trial, and the search does not wait for
// it.
TEST_F(RunnerTest, AStoppedWorkerHoldsNothing) {
  testing::promise(
      "A worker that is stopped loses its trial to another after `lease` "
      "seconds and is ended.");
  config_.lease = kLease;
  config_.workers = 1;
  options_.quiet = false;
  EXPECT_EQ(run("stop_once").done, 4);
  EXPECT_THAT(err_, HasSubstr("its worker said nothing for 2 s"));
  for (const Trial& trial : trials()) {
    EXPECT_EQ(trial.status, Status::kDone);
  }
}

// Nothing in the folder can be removed to let a second one in.
TEST_F(RunnerTest, OneSearchAtATime) {
  testing::promise("One search at a time works on a folder.");
  std::filesystem::create_directories(config_.out);
  {
    const base::FolderLock other(config_.out);
    std::filesystem::remove_all(std::filesystem::path(config_.out) / "lock");
    EXPECT_THROW(run("train"), base::InvalidInput);
  }
  EXPECT_EQ(run("train").done, 4);
}

TEST_F(RunnerTest, StopsWhenAsked) {
  config_.learning_rates = {1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3};
  int polls = 0;
  options_.should_stop = [&] { return ++polls > 3; };
  const RunResult result = run("train");
  EXPECT_TRUE(result.interrupted);
  EXPECT_LT(result.done, 24);
  options_.should_stop = nullptr;
  EXPECT_EQ(run("train").done, 24);
}

TEST_F(RunnerTest, SaysHowMuchThereIsToDo) {
  options_.quiet = false;
  run("train");
  EXPECT_THAT(err_, HasSubstr("4 trials, 4 to run"));
  run("train");
  EXPECT_THAT(err_, HasSubstr("4 trials, 0 to run"));
  config_.structures = {"dense", "monarch", "theta:0.5,0,0.5,0,0.5,0.5,0"};
  run("train");
  EXPECT_THAT(err_, HasSubstr("4 trials, 0 to run"));
  EXPECT_THAT(err_, HasSubstr("not trained"));
  EXPECT_THAT(err_, HasSubstr("(monarch)"));
}

TEST_F(RunnerTest, AFolderThatCannotBeWrittenIsAnError) {
  std::ofstream(folder_ / "file") << "x";
  config_.out = (folder_ / "file").string();
  EXPECT_THROW(run("train"), base::IoError);
  config_.out = (folder_ / "file" / "out").string();
  EXPECT_THROW(run("train"), base::IoError);
}

}  // namespace
}  // namespace einforge::search
