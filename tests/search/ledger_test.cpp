#include "einforge/search/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include <cmath>
#include <ctime>
#include <map>
#include <set>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/search/identity.h"
#include "einforge/search/process.h"
#include "tests/search/promises.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using store::Status;
using store::Trial;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kDeadWorker = "elsewhere:1:2";

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest() { config_ = testing::mlp_config(folder_ / "out"); }

  // Of the configuration as it is now.
  Ledger& open(bool retry_failed = false) {
    ledger_.reset();
    proposals_ = propose(config_);
    std::filesystem::create_directories(config_.out);
    return ledger_.emplace(config_, proposals_, retry_failed);
  }

  // As a worker does: trains `id` to the end of its rung.
  void train(const std::string& id, double loss) {
    Ledger& ledger = *ledger_;
    Trial trial = *ledger.store().claim(id, "w");
    const auto& config = proposals_[*ledger.place(id)].config;
    const int rungs = static_cast<int>(rung_count(config_.scheduler));
    const std::int64_t step = rung_steps(
        config.steps,
        config.eval_every,
        trial.rung,
        rungs,
        static_cast<int>(config_.scheduler.eta));
    ledger.store().append_curve(id, {{step, step, 1, 1, loss, loss}});
    trial.final_loss = loss;
    trial.status = ++trial.rung < rungs ? Status::kPruned : Status::kDone;
    ledger.store().update(trial);
    ledger.reload(id);
  }

  // What is queued, by its learning rate.
  std::vector<double> take_all() {
    std::vector<double> rates;
    while (const auto id = ledger_->take()) {
      rates.push_back(ledger_->store().find(*id)->learning_rate);
    }
    return rates;
  }

  Trial in_store(const std::string& id) { return *ledger_->store().find(id); }

  testing::TemporaryFolder folder_;
  SearchConfig config_;
  std::vector<Proposal> proposals_;
  std::optional<Ledger> ledger_;
};

TEST_F(LedgerTest, GivesEachTrialOnceAndEnds) {
  Ledger& ledger = open();
  std::set<std::string> given;
  while (const auto id = ledger.take()) {
    EXPECT_TRUE(given.insert(*id).second);
    EXPECT_FALSE(ledger.finished());
    train(*id, 1);
  }
  EXPECT_EQ(given.size(), proposals_.size());
  EXPECT_TRUE(ledger.finished());
  EXPECT_TRUE(open().finished());
  EXPECT_EQ(ledger_->queued(), 0u);
}

TEST_F(LedgerTest, WhatNobodyTrainedComesBack) {
  Ledger& ledger = open();
  const std::string id = *ledger.take();
  EXPECT_EQ(ledger.queued(), proposals_.size() - 1);
  ledger.reload(id);  // its worker exited before it claimed it
  EXPECT_EQ(ledger.take(), id);
  ledger.store().claim(id, kDeadWorker);
  ledger.reload(id);
  EXPECT_EQ(ledger.queued(), proposals_.size() - 1);
  ledger.reclaim();
  EXPECT_EQ(ledger.take(), id);
}

// Killed while a structure ran, and started again without that structure.
TEST_F(LedgerTest, ARunningTrialThatLeftTheSpaceLeavesTheQueue) {
  testing::promise(
      "Trials that left the grid stay in the store and are not trained "
      "further.");
  const std::string worker = process_name(::getpid());
  std::string dead;
  std::string alive;
  {
    Ledger& ledger = open();
    dead = *ledger.take();
    alive = *ledger.take();
    ledger.store().claim(dead, kDeadWorker);
    ledger.store().claim(alive, worker);
  }
  config_.structures = {"btt:0.25"};
  Ledger& ledger = open();
  EXPECT_EQ(in_store(dead).status, Status::kPruned);
  EXPECT_FALSE(ledger.place(dead));
  EXPECT_EQ(in_store(alive).status, Status::kRunning);
  // Its worker dies a moment later.
  Trial trial = in_store(alive);
  trial.worker = kDeadWorker;
  ledger.store().update(trial);
  ledger.reclaim();
  EXPECT_EQ(in_store(alive).status, Status::kPruned);
  while (const auto id = ledger.take()) {
    EXPECT_EQ(in_store(*id).structure, "btt:0.25");
    train(*id, 1);
  }
  EXPECT_TRUE(ledger.finished());
  // And comes back with its structure.
  config_.structures = {"dense", "monarch"};
  open();
  EXPECT_EQ(in_store(dead).status, Status::kQueued);
  EXPECT_EQ(take_all().size(), 4u);
}

TEST_F(LedgerTest, FailedTrialsAreTriedAgainWhenAsked) {
  testing::promise("`--retry-failed` runs failed and diverged trials again.");
  std::string id;
  {
    Ledger& ledger = open();
    id = *ledger.take();
    ledger.store().claim(id, "w");
    ledger.fail(id, "why");
    EXPECT_EQ(in_store(id).reason, "why");
    std::filesystem::create_directories(Folder{config_.out}.trial(id) / "x");
  }
  open();
  EXPECT_EQ(in_store(id).status, Status::kFailed);
  EXPECT_TRUE(std::filesystem::exists(Folder{config_.out}.trial(id)));
  open(/*retry_failed=*/true);
  EXPECT_EQ(in_store(id).status, Status::kQueued);
  EXPECT_EQ(in_store(id).reason, "");
  EXPECT_FALSE(std::filesystem::exists(Folder{config_.out}.trial(id)));
}

TEST_F(LedgerTest, HalvingPromotesWithinItsGroups) {
  config_.structures = {"dense", "monarch"};
  config_.widths = {16};
  config_.learning_rates = {1e-3, 2e-3, 3e-3, 4e-3};
  config_.scheduler = {
      .kind = "halving", .eta = 2, .rungs = 2, .within = "structure"};
  Ledger& ledger = open();
  std::vector<std::string> ids;
  while (const auto id = ledger.take()) {
    ids.push_back(*id);
  }
  ASSERT_EQ(ids.size(), 8u);
  // All of dense are worse than all of monarch, and nobody minds.
  const auto loss = [&](const std::string& id) {
    const Trial trial = in_store(id);
    return trial.learning_rate * 100 + (trial.structure == "dense" ? 9 : 0);
  };
  for (const std::string& id : ids) {
    train(id, loss(id));
  }
  EXPECT_EQ(ledger.queued(), 4u);
  EXPECT_FALSE(ledger.finished());
  int over = 0;
  for (std::size_t i = 0; i < proposals_.size(); ++i) {
    over += ledger.over(i) ? 1 : 0;
  }
  EXPECT_EQ(over, 4);
  for (const std::string& id : ids) {
    EXPECT_EQ(
        in_store(id).status == Status::kQueued,
        in_store(id).learning_rate < 2.5e-3);
  }
  while (const auto id = ledger.take()) {
    train(*id, 1);
  }
  EXPECT_TRUE(ledger.finished());
  // Started again: all is over, the dropped ones too.
  Ledger& again = open();
  EXPECT_TRUE(again.finished());
  for (std::size_t i = 0; i < proposals_.size(); ++i) {
    EXPECT_TRUE(again.over(i));
  }
}

// Asynchronous schedulers put a trial into the store when they choose it. A
// search that was killed between any two results comes to the same trials.
TEST_F(LedgerTest, AsynchronousSearchesChooseTheSameWhenKilled) {
  config_.widths = {8, 16, 32};
  config_.learning_rates = {1e-3, 2e-3, 4e-3};
  config_.scheduler.eta = 2;
  config_.scheduler.stop_gain = 0.02;
  config_.workers = 2;
  const auto loss = [](const Trial& trial) {
    return 3 - (trial.structure == "monarch" ? 0.4 : 0.0) +
           0.2 * std::abs(std::log(trial.learning_rate / 2e-3)) -
           0.1 * trial.rung - 1e-7 * static_cast<double>(trial.parameters);
  };
  for (const std::string kind : {"asha", "model"}) {
    config_.scheduler.kind = kind;
    std::map<std::string, int> rungs[2];
    for (const bool kills : {false, true}) {
      config_.out = (folder_ / fmt::format("{}{}", kind, kills)).string();
      open();
      EXPECT_EQ(ledger_->queued(), 2U);
      EXPECT_EQ(ledger_->store().trials().size(), 2U);
      base::Random random(4);
      std::vector<std::string> given;
      while (!ledger_->finished()) {
        while (const auto id = ledger_->take()) {
          given.push_back(*id);
        }
        ASSERT_FALSE(given.empty());
        const std::size_t next = kills ? random.below(given.size()) : 0;
        train(given[next], loss(in_store(given[next])));
        given.erase(given.begin() + static_cast<std::ptrdiff_t>(next));
        if (kills && random.below(3) == 0) {
          // Another number of workers changes nothing that was begun.
          config_.workers = 5;
          open();
          given.clear();
        }
      }
      config_.workers = 2;
      for (const Trial& trial : ledger_->store().trials()) {
        rungs[kills][trial.id] = trial.rung;
      }
    }
    EXPECT_EQ(rungs[0], rungs[1]) << kind;
    EXPECT_TRUE(open().finished());
    EXPECT_EQ(ledger_->queued(), 0U);
  }
}

TEST_F(LedgerTest, AnotherSchedulerNeedsAnotherFolder) {
  testing::promise(
      "`halving` with another `eta`, `rungs` or `within`, or after `grid` or "
      "`random`, needs another folder; `grid` and `random` may share one.");
  const SchedulerConfig halving = {
      .kind = "halving", .eta = 3, .rungs = 2, .within = "model"};
  config_.scheduler = halving;
  open();
  const auto refused = [&](const SchedulerConfig& scheduler) {
    config_.scheduler = scheduler;
    try {
      open();
    } catch (const base::InvalidInput& error) {
      EXPECT_THAT(
          error.what(),
          AllOf(
              HasSubstr("another scheduler ("),
              HasSubstr("; now "),
              Not(HasSubstr("{"))));
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused(halving));
  SchedulerConfig other = halving;
  other.eta = 2;
  EXPECT_TRUE(refused(other));
  other = halving;
  other.rungs = 3;
  EXPECT_TRUE(refused(other));
  other = halving;
  other.within = "all";
  EXPECT_TRUE(refused(other));
  EXPECT_TRUE(refused({.kind = "grid"}));
  EXPECT_TRUE(refused({.kind = "random"}));
  // Grid and random train all of their trials to the end.
  config_.out = (folder_ / "grid").string();
  EXPECT_FALSE(refused({.kind = "grid"}));
  EXPECT_FALSE(refused({.kind = "random"}));
  EXPECT_TRUE(refused(halving));
  testing::promise(
      "`asha` and `model` need another folder than all others, `model` also "
      "for another `objective`.");
  EXPECT_TRUE(refused({.kind = "asha"}));
  EXPECT_TRUE(refused({.kind = "model"}));
  config_.out = (folder_ / "model").string();
  EXPECT_FALSE(refused({.kind = "model"}));
  EXPECT_TRUE(refused({.kind = "asha"}));
  EXPECT_TRUE(refused({.kind = "halving"}));
  config_.objective = "seconds";
  EXPECT_TRUE(refused({.kind = "model"}));
}

// A store that einforge 0.1 made (its schema is version 2 and its ids are
// hashes of all keys) with four trials that are done.
class OldStoreTest : public LedgerTest {
 protected:
  OldStoreTest() {
    config_.structures = {"dense", "btt_moe:E=4,k=2"};
    config_.widths = {16, 32};
    config_.learning_rates = {1e-2};
    config_.seeds = {3};
    config_.budget.tokens = 2000;
    config_.curve_points = 4;
    config_.train.eval_batches = 1;
    // As it was then for all: by default today's mixtures are other trials.
    config_.train.model.moe.router.reduce = "sum";
    config_.train.model.moe.router.init_std = 0;
    std::filesystem::create_directories(config_.out);
    sqlite3* database = nullptr;
    sqlite3_open(Folder{config_.out}.store().c_str(), &database);
    const std::string sql =
        testing::read(testing::source_root() / "tests/search/old_store.sql") +
        "PRAGMA application_id = 0x65696667; PRAGMA user_version = 2";
    EXPECT_EQ(
        sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr),
        SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
  }
};

TEST_F(OldStoreTest, NoTrialIsTrainedAgain) {
  testing::promise(
      "A key that einforge learns later changes no id, and trials of an older "
      "store are recognised: an upgrade trains nothing again.");
  testing::promise("A larger grid in the same folder trains only what is new.");
  Ledger& ledger = open();
  EXPECT_TRUE(ledger.finished());
  EXPECT_EQ(ledger.store().trials().size(), 4u);
  // Under the ids that its folders have.
  EXPECT_TRUE(ledger.place("e9441bb64dd1d36b"));
  EXPECT_EQ(
      ledger.trials()[*ledger.place("82fba181bfd789b6")].status, Status::kDone);
  EXPECT_EQ(ledger.store().curve("e9441bb64dd1d36b").size(), 5u);
  // The losses of routers are averaged by default, no longer summed.
  config_.train.model.moe.router.reduce = "mean";
  EXPECT_EQ(open().queued(), 2u);
  config_.train.model.moe.router.reduce = "sum";
  EXPECT_TRUE(open().finished());
  // What is new is trained.
  config_.widths.push_back(64);
  EXPECT_EQ(open().queued(), 2u);
  EXPECT_EQ(ledger_->store().trials().size(), 8u);
  EXPECT_EQ(open().store().trials().size(), 8u);
}

TEST_F(OldStoreTest, WhatWasQueuedIsTrainedUnderItsOldId) {
  {
    store::Store store = store::Store::open(Folder{config_.out}.store());
    Trial trial = *store.find("ca2e0de0ee4a22ef");
    trial.status = Status::kQueued;
    store.update(trial);
  }
  Ledger& ledger = open();
  EXPECT_EQ(ledger.take(), "ca2e0de0ee4a22ef");
  train("ca2e0de0ee4a22ef", 1);
  EXPECT_TRUE(ledger.finished());
  EXPECT_EQ(ledger.store().trials().size(), 4u);
}

TEST_F(OldStoreTest, IsBroughtUpToDateAndANewerOneRefused) {
  testing::promise(
      "A store of an older version is brought up to date; one of a newer "
      "version is refused.");
  const auto sql = [&](const char* text) {
    sqlite3* database = nullptr;
    sqlite3_open(Folder{config_.out}.store().c_str(), &database);
    EXPECT_EQ(
        sqlite3_exec(database, text, nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(database);
  };
  open();
  ledger_.reset();
  sql("SELECT checksum FROM trials");
  sql("PRAGMA user_version = 99");
  try {
    open();
    FAIL() << "a store of a newer version was taken";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("version 99; a newer einforge"));
  }
}

TEST_F(LedgerTest, ADamagedStoreIsRefused) {
  testing::promise(
      "Every row of the store has a checksum; a damaged store is refused with "
      "one line.");
  open();
  ledger_.reset();
  sqlite3* database = nullptr;
  sqlite3_open(Folder{config_.out}.store().c_str(), &database);
  EXPECT_EQ(
      sqlite3_exec(
          database,
          "UPDATE trials SET learning_rate = 0.5",
          nullptr,
          nullptr,
          nullptr),
      SQLITE_OK);
  sqlite3_close(database);
  try {
    open();
    FAIL() << "a damaged store was taken";
  } catch (const base::InvalidInput& error) {
    EXPECT_THAT(error.what(), HasSubstr("checksum mismatch"));
  }
}

// What a record without a key means, so that ids of today's trials stay as they
// are. Who changes the default of a key here adds the value before to
// train/recorded_config.cpp, which keeps this test as it is.
TEST(TrialId, DefaultsOfToday) {
  train::TrainConfig config;
  config.model.structure.all = "btt_moe:E=4";
  EXPECT_EQ(trial_id(config), "22f3540a54927c88");
  config.model.structure.all = "dense";
  EXPECT_EQ(trial_id(config), "99aa06d3014798d8");
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

// 10,000 trials that all compete, of 31 points each: the first start, what an
// event costs, and a start with all that is in the store.
TEST_F(LedgerTest, TenThousandTrials) {
  // In memory where possible: it is not the disk that is measured.
  const std::filesystem::path memory = "/dev/shm";
  const std::string name = fmt::format("einforge_ledger_{}", ::getpid());
  if (std::filesystem::is_directory(memory)) {
    config_.out = (memory / name).string();
  }
  config_.structures = {"dense"};
  config_.widths = {16};
  config_.learning_rates.clear();
  for (int i = 1; i <= 100; ++i) {
    config_.learning_rates.push_back(1e-4 * i);
  }
  config_.seeds.clear();
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    config_.seeds.push_back(seed);
  }
  config_.scheduler = {.kind = "halving", .eta = 2, .rungs = 3};
  double mark = cpu_seconds();
  const auto lap = [&mark] {
    const double seconds = cpu_seconds() - mark;
    mark += seconds;
    return seconds;
  };
  open();
  ASSERT_EQ(proposals_.size(), 10'000u);
  const double first_start = lap();
  double scheduling = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = *ledger_->take();
    scheduling += lap();
    ledger_->store().claim(id, "w");
    lap();
    ledger_->reload(id);
    scheduling += lap();
    Trial trial = in_store(id);
    trial.status = Status::kPruned;
    trial.rung = 1;
    ledger_->store().update(trial);
    lap();
    ledger_->reload(id);
    scheduling += lap();
  }
  std::vector<store::CurvePoint> curve;
  for (int point = 0; point < 31; ++point) {
    curve.push_back({point, point, 1, 1, 2, 2});
  }
  for (const Proposal& proposal : proposals_) {
    ledger_->store().append_curve(proposal.trial.id, curve);
  }
  lap();
  open();
  EXPECT_EQ(ledger_->queued(), 9000u);
  const double start = lap();
  ledger_.reset();
  std::filesystem::remove_all(config_.out);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "first start %.1f s, 1,000 trials scheduled %.2f s, start %.1f s, "
      "%ld MB\n",
      first_start,
      scheduling,
      start,
      usage.ru_maxrss / 1024);
  EXPECT_LT(first_start, 10);
  EXPECT_LT(scheduling, 1);
  EXPECT_LT(start, 10);
  EXPECT_LT(usage.ru_maxrss, 1024 * 1024);
}

}  // namespace
}  // namespace einforge::search
