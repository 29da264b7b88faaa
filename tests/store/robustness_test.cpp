// What happens to a store when several processes use it, when they are killed,
// and when the disk or the directory refuses them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/store/store.h"
#include "tests/store/child_process.h"
#include "tests/store/temporary_store.h"

namespace einforge::store {
namespace {

namespace fs = std::filesystem;
using testing::exit_code;
using ::testing::HasSubstr;
using testing::make_trial;
using testing::spawn;
using testing::TemporaryDirectory;

std::string integrity(const fs::path& path) {
  sqlite3* database = nullptr;
  sqlite3_open(path.c_str(), &database);
  std::string answer;
  sqlite3_exec(
      database,
      "PRAGMA integrity_check",
      [](void* into, int, char** values, char**) {
        *static_cast<std::string*>(into) += values[0];
        return 0;
      },
      &answer,
      nullptr);
  sqlite3_close(database);
  return answer;
}

TEST(StoreRobustness, ProcessesThatOpenANewStoreAtOnceAllSucceed) {
  const TemporaryDirectory directory;
  std::vector<pid_t> children;
  for (int i = 0; i < 6; ++i) {
    children.push_back(spawn([&, i] {
      Store store = Store::open(directory / "s.db");
      store.add(make_trial(std::to_string(i)));
      return store.add(make_trial("same")) ? 1 : 0;
    }));
  }
  int added_same = 0;
  for (const pid_t child : children) {
    const int code = exit_code(child);
    ASSERT_LE(code, 1);
    added_same += code;
  }
  EXPECT_EQ(added_same, 1);
  EXPECT_EQ(Store::open(directory / "s.db").trials().size(), 7u);
}

TEST(StoreRobustness, NoTrialIsClaimedTwice) {
  constexpr int kTrials = 200;
  const TemporaryDirectory directory;
  {
    Store store = Store::open(directory / "s.db");
    for (int i = 0; i < kTrials; ++i) {
      store.add(make_trial(std::to_string(i)));
    }
  }
  std::vector<pid_t> children;
  for (int worker = 0; worker < 4; ++worker) {
    children.push_back(spawn([&, worker] {
      Store store = Store::open(directory / "s.db");
      std::ofstream log(directory / fmt::format("log{}", worker));
      for (int i = 0; i < kTrials; ++i) {
        auto trial = store.claim(std::to_string(i), std::to_string(worker));
        if (!trial) {
          continue;
        }
        log << trial->id << '\n';
        store.append_curve(trial->id, {{0, 0, 0, 0, 1, 1}});
        trial->status = Status::kDone;
        store.update(*trial);
      }
      return 0;
    }));
  }
  for (const pid_t child : children) {
    EXPECT_EQ(exit_code(child), 0);
  }
  std::map<std::string, int> times;
  for (int worker = 0; worker < 4; ++worker) {
    std::ifstream log(directory / fmt::format("log{}", worker));
    for (std::string id; log >> id;) {
      ++times[id];
    }
  }
  EXPECT_EQ(times.size(), static_cast<std::size_t>(kTrials));
  for (const auto& [id, count] : times) {
    EXPECT_EQ(count, 1) << id;
  }
  for (const Trial& trial : Store::open(directory / "s.db").trials()) {
    EXPECT_EQ(trial.status, Status::kDone);
  }
}

// A worker is killed at a random moment, twenty times. Whatever it reported
// through a pipe as written must be there, the store must be intact, and all
// trials must be run to their end.
TEST(StoreRobustness, SurvivesKill9AtRandomMoments) {
  constexpr int kTrials = 1500;
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  {
    Store store = Store::open(path);
    for (int i = 0; i < kTrials; ++i) {
      store.add(make_trial(std::to_string(i)));
    }
  }
  base::Random random(7);
  std::set<std::string> reported;
  std::size_t killed_busy = 0;
  for (int round = 0; round < 20; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = spawn([&] {
      Store store = Store::open(path);
      store.reclaim([](const Claim&) { return true; });
      if (::write(ends[1], "\n", 1) < 0) {  // at work now
        return 1;
      }
      for (int i = 0; i < kTrials; ++i) {
        auto trial = store.claim(std::to_string(i), "w");
        if (!trial) {
          continue;
        }
        for (int step = 0; step < 20; ++step) {
          store.append_curve(trial->id, {{step, step, 1. * step, 0, 1, 1}});
        }
        trial->status = Status::kDone;
        store.update(*trial);
        const std::string line = trial->id + "\n";
        if (::write(ends[1], line.data(), line.size()) < 0) {
          return 1;
        }
      }
      return 0;
    });
    ::close(ends[1]);
    // After a few trials, however fast this machine is, and then a little.
    std::string lines;
    char letter = 0;
    for (auto left = 1 + random.below(4); left > 0;) {
      ASSERT_EQ(::read(ends[0], &letter, 1), 1);
      lines += letter;
      left -= letter == '\n' ? 1 : 0;
    }
    std::this_thread::sleep_for(
        std::chrono::microseconds(random.below(20'000)));
    ::kill(child, SIGKILL);
    killed_busy += exit_code(child) == 128 + SIGKILL ? 1 : 0;
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
      lines.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(ends[0]);
    std::istringstream words(lines);
    for (std::string id; words >> id;) {
      EXPECT_TRUE(reported.insert(id).second) << id << " was run twice";
    }
    ASSERT_EQ(integrity(path), "ok");
    const Store store = Store::open(path);
    ASSERT_EQ(store.trials().size(), static_cast<std::size_t>(kTrials));
    for (const std::string& id : reported) {
      ASSERT_EQ(store.find(id)->status, Status::kDone) << id;
      ASSERT_EQ(store.curve(id).size(), 20u) << id;
    }
  }
  EXPECT_GT(reported.size(), 10u);  // the kills came in the midst of work
  EXPECT_GT(killed_busy, 10u);
}

TEST(StoreRobustness, AFullDiskIsOneLineAndLosesNothingWritten) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  Store::open(path).add(make_trial("first"));
  // A limit on file size is what a full disk looks like to one process.
  const pid_t child = spawn([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {200'000, 200'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    Store store = Store::open(path);
    try {
      for (int i = 0; i < 100'000; ++i) {
        store.add(make_trial(std::to_string(i)));
      }
    } catch (const base::IoError& error) {
      const std::string what = error.what();
      return what.find("s.db") != std::string::npos &&
                     what.find('\n') == std::string::npos
                 ? 42
                 : 1;
    }
    return 2;
  });
  EXPECT_EQ(exit_code(child), 42);
  EXPECT_EQ(integrity(path), "ok");
  Store store = Store::open(path);
  EXPECT_TRUE(store.find("first"));
  const std::size_t count = store.trials().size();
  EXPECT_GT(count, 10u);
  EXPECT_TRUE(store.find(std::to_string(count - 2)));  // the last that fitted
  EXPECT_TRUE(store.add(make_trial("later")));
}

TEST(StoreRobustness, AReadOnlyDirectoryIsOneLineAndCanStillBeRead) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  Store::open(path).add(make_trial("first"));
  fs::permissions(path, fs::perms(0444));
  fs::permissions(directory.path(), fs::perms(0555));
  const pid_t child = spawn([&] {
    // Root may write anywhere; nobody may not.
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) {
      return 3;
    }
    for (const char* name : {"s.db", "new.db"}) {
      try {
        Store::open(directory / name);
        return 1;
      } catch (const base::IoError& error) {
        if (std::string(error.what()).find(name) == std::string::npos) {
          return 2;
        }
      }
    }
    return Store::open_read_only(path).trials().size() == 1 ? 42 : 4;
  });
  EXPECT_EQ(exit_code(child), 42);
  fs::permissions(directory.path(), fs::perms(0755));
}

TEST(StoreRobustness, AReadOnlyFileIsReadWithoutLeavingFiles) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  Store::open(path).add(make_trial("first"));
  fs::permissions(path, fs::perms(0444));
  fs::permissions(directory.path(), fs::perms(0777));
  const pid_t child = spawn([&] {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) {
      return 3;
    }
    return Store::open_read_only(path).trials().size() == 1 ? 42 : 4;
  });
  EXPECT_EQ(exit_code(child), 42);
  EXPECT_EQ(
      std::distance(
          fs::directory_iterator(directory.path()), fs::directory_iterator()),
      1);
}

TEST(StoreRobustness, AReaderSeesWhatAKilledWriterWrote) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  const pid_t child = spawn([&]() -> int {
    Store store = Store::open(path);
    store.add(make_trial("aa"));
    ::kill(::getpid(), SIGKILL);
    return 1;
  });
  EXPECT_EQ(exit_code(child), 128 + SIGKILL);
  ASSERT_TRUE(fs::exists(directory / "s.db-wal"));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
  EXPECT_FALSE(fs::exists(directory / "s.db-wal"));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
  EXPECT_EQ(integrity(path), "ok");
}

TEST(StoreRobustness, AWriterWaitsForAnother) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  Store store = Store::open(path);
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(
      sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr),
      SQLITE_OK);
  std::thread release([other] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    sqlite3_exec(other, "COMMIT", nullptr, nullptr, nullptr);
  });
  EXPECT_TRUE(store.add(make_trial("aa")));
  release.join();
  sqlite3_close(other);
}

}  // namespace
}  // namespace einforge::store
