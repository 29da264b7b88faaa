// The whole program: einforge search with its workers, killed in every way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <sstream>

#include "einforge/base/error.h"
#include "einforge/base/json.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/search/folder.h"
#include "einforge/search/process.h"
#include "einforge/search/space.h"
#include "einforge/store/store.h"
#include "tests/search/promises.h"
#include "tests/search/testing.h"

namespace einforge::search {
namespace {

using store::Status;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using ::testing::StartsWith;

std::string query(const std::filesystem::path& path, const char* text) {
  sqlite3* database = nullptr;
  std::string result;
  sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr);
  sqlite3_exec(
      database,
      text,
      [](void* out, int, char** values, char**) {
        *static_cast<std::string*>(out) = values[0];
        return 0;
      },
      &result,
      nullptr);
  sqlite3_close(database);
  return result;
}

std::uint64_t bits(double value) {
  std::uint64_t result = 0;
  std::memcpy(&result, &value, sizeof(value));
  return result;
}

class SearchTest : public ::testing::Test {
 protected:
  std::string write_config(const SearchConfig& config) {
    const std::string path = (folder_ / "search.json").string();
    std::ofstream(path) << base::to_json(config).dump();
    return path;
  }

  // Runs it to its end with the flags; returns the exit code.
  int run(
      const SearchConfig& config, const std::vector<std::string>& flags = {}) {
    std::vector<std::string> arguments = {"search", write_config(config)};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    Program program(arguments, folder_ / "stdout");
    const int code = program.wait();
    out_ = program.out();
    err_ = program.err();
    return code;
  }

  static std::vector<store::Trial> trials(const SearchConfig& config) {
    return store::Store::open_read_only(Folder{config.out}.store()).trials();
  }

  // Of a search that runs: none as long as the store is being made.
  static std::vector<std::string> running_workers(const SearchConfig& config) {
    std::vector<std::string> workers;
    try {
      for (const store::Trial& trial : trials(config)) {
        if (trial.status == Status::kRunning) {
          workers.push_back(trial.worker);
        }
      }
    } catch (const std::exception&) {
    }
    return workers;
  }

  static void kill_process(const std::string& name) {
    const auto end = name.rfind(':');
    const auto begin = name.rfind(':', end - 1) + 1;
    if (process_alive(name)) {
      ::kill(std::stoi(name.substr(begin, end - begin)), SIGKILL);
    }
  }

  // What a search must leave behind, whatever was done to it: every trial
  // done exactly once, an intact store, whole curves.
  static void expect_complete(
      const SearchConfig& config, const std::vector<Proposal>& proposals) {
    const Folder folder{config.out};
    EXPECT_EQ(query(folder.store(), "PRAGMA integrity_check"), "ok");
    const auto store = store::Store::open_read_only(folder.store());
    ASSERT_EQ(store.trials().size(), proposals.size());
    for (const Proposal& proposal : proposals) {
      const auto trial = store.find(proposal.trial.id);
      ASSERT_TRUE(trial) << proposal.trial.id;
      EXPECT_EQ(trial->status, Status::kDone) << trial->reason;
      const auto curve = store.curve(trial->id);
      std::vector<std::int64_t> steps;
      for (const store::CurvePoint& point : curve) {
        steps.push_back(point.step);
        EXPECT_TRUE(std::isfinite(point.val_loss));
      }
      std::vector<std::int64_t> expected;
      for (std::int64_t step = 0; step <= proposal.config.steps;
           step += proposal.config.eval_every) {
        expected.push_back(step);
      }
      if (expected.back() != proposal.config.steps) {
        expected.push_back(proposal.config.steps);
      }
      EXPECT_EQ(steps, expected) << trial->structure << " " << trial->model;
      ASSERT_FALSE(curve.empty());
      EXPECT_EQ(bits(trial->final_loss), bits(curve.back().val_loss));
      EXPECT_NEAR(trial->flops, proposal.flops, 1e-9 * proposal.flops);
    }
  }

  // The same curves and the same weights, bit for bit.
  static void expect_same_results(
      const SearchConfig& first, const SearchConfig& second) {
    const auto a = store::Store::open_read_only(Folder{first.out}.store());
    const auto b = store::Store::open_read_only(Folder{second.out}.store());
    for (const store::Trial& trial : a.trials()) {
      EXPECT_EQ(trial.routers, b.find(trial.id)->routers) << trial.structure;
      const auto x = a.curve(trial.id);
      const auto y = b.curve(trial.id);
      ASSERT_EQ(x.size(), y.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        EXPECT_EQ(x[i].step, y[i].step);
        EXPECT_EQ(bits(x[i].val_loss), bits(y[i].val_loss))
            << trial.structure << " " << trial.model << " step " << x[i].step;
      }
      const auto weights = [&](const SearchConfig& config) {
        std::string bytes;
        std::filesystem::path newest;
        const auto checkpoints =
            Folder{config.out}.trial(trial.id) / "checkpoints";
        for (const auto& entry :
             std::filesystem::directory_iterator(checkpoints)) {
          newest = std::max(newest, entry.path());
        }
        return testing::read(newest / "model.safetensors");
      };
      EXPECT_GT(weights(first).size(), 1000U);
      EXPECT_TRUE(weights(first) == weights(second))
          << trial.structure << " " << trial.model;
    }
  }

  testing::TemporaryFolder folder_;
  std::string data_ = testing::make_data(folder_);
  SearchConfig config_ = testing::tiny_config(data_, folder_ / "out");
  std::string out_;
  std::string err_;
};

// A rate that is 0 in float32 leaves the routers at zero: the first expert
// takes all, and the report says so.
TEST_F(SearchTest, ReportsCollapsedRouters) {
  SearchConfig config = testing::tiny_config(data_, folder_ / "out");
  config.structures = {"dense", "btt_moe:E=4,k=1"};
  config.widths = {16};
  config.learning_rates = {1e-60};
  ASSERT_EQ(run(config), 0) << err_;
  int warned = 0;
  for (const store::Trial& trial : trials(config)) {
    EXPECT_EQ(trial.status, Status::kDone) << trial.reason;
    if (trial.structure == "dense") {
      EXPECT_TRUE(trial.routers.is_null());
      continue;
    }
    EXPECT_EQ(trial.routers["step"], 40);
    EXPECT_EQ(trial.routers["layers"].size(), 6U);
    EXPECT_EQ(trial.routers["layers"][0]["tokens"], (base::Json{64, 0, 0, 0}));
    for (const base::Json& warning : trial.routers["warnings"]) {
      const std::string message = warning["message"];
      EXPECT_THAT(message, HasSubstr(warning["layer"].get<std::string>()));
      warned += warning["kind"] == "overloaded";
    }
  }
  EXPECT_EQ(warned, 6);
  EXPECT_THAT(
      testing::read(folder_ / "out" / "workers.log"),
      HasSubstr(" (btt_moe:E=4,k=1): warning: router of blocks_0.attention.q: "
                "expert 0 took 100% of 64 tokens"));
  const std::string html = testing::read(folder_ / "out" / "report.html");
  EXPECT_THAT(
      html,
      HasSubstr("router of blocks_0.attention.q: expert 0 took 100% of 64 "
                "tokens at step"));
  EXPECT_THAT(
      out_ + err_,
      HasSubstr("router of blocks_0.attention.q: experts 1, 2, 3 took none"));
}

TEST_F(SearchTest, NotesWhereItsNumbersComeFrom) {
  config_.structures = {"dense"};
  config_.widths = {16};
  config_.seeds = {3, 5};
  ASSERT_EQ(run(config_, {"--json", "--set", "name=it's two words"}), 0)
      << err_;
  const base::Json metadata = base::Json::parse(out_).at("metadata");
  EXPECT_EQ(metadata.at("name"), "it's two words");
  EXPECT_EQ(metadata.at("seeds").at("trials"), base::Json({3, 5}));
  EXPECT_EQ(metadata.at("seeds").at("draw"), 0);
  for (const char* part : {"einforge", "compiler", "torch"}) {
    EXPECT_FALSE(metadata.at("versions").at(part).get<std::string>().empty());
  }
  EXPECT_GE(metadata.at("hardware").at("cores").get<int>(), 1);
  const std::string command = metadata.at("command").get<std::string>();
  EXPECT_THAT(
      command,
      ::testing::EndsWith(fmt::format(
          R"(search {} --json --set 'name=it'\''s two words')",
          (folder_ / "search.json").string())));
  // Reading it again trains nothing and so changes nothing.
  ASSERT_EQ(run(config_, {"--quiet"}), 0) << err_;
  EXPECT_EQ(
      store::Store::open_read_only(Folder{config_.out}.store())
          .metadata()
          .at("command"),
      command);
}

TEST_F(SearchTest, TrainsEveryTrialOnce) {
  ASSERT_EQ(run(config_, {"--json"}), 0) << err_;
  expect_complete(config_, propose(config_));
  const base::Json summary = base::Json::parse(out_);
  EXPECT_EQ(summary["search"]["done"], 4);
  EXPECT_EQ(summary["search"]["failed"], 0);
  EXPECT_EQ(summary["ranking"].size(), 2U);
  EXPECT_GT(testing::read(Folder{config_.out}.report()).size(), 1000U);
  EXPECT_EQ(
      base::Json::parse(
          testing::read(Folder{config_.out}.report_json()))["trials"],
      summary["trials"]);
  ASSERT_EQ(summary["trials"].size(), 4U);
  EXPECT_TRUE(summary["trials"][0]["final_loss"].is_number());

  // TensorBoard names runs by folders: one for each trial, by what it trains.
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(Folder{config_.out}.tensorboard())) {
    EXPECT_TRUE(std::filesystem::exists(entry.path() / "log.jsonl"));
    names.push_back(entry.path().filename().string());
  }
  EXPECT_EQ(names.size(), 4U);
  EXPECT_THAT(names, Contains(StartsWith("dense gpt d16 L1")));

  // Again: nothing to do, nothing changed.
  const auto before = trials(config_);
  ASSERT_EQ(run(config_), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("0 to run"));
  const auto after = trials(config_);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].seconds, after[i].seconds);
    EXPECT_EQ(before[i].worker, after[i].worker);
  }

  // A wider grid trains only what is new.
  config_.widths.push_back(48);
  ASSERT_EQ(run(config_), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("2 to run"));
  expect_complete(config_, propose(config_));
}

TEST_F(SearchTest, DryRunShowsTheTrialsAndKeepsNothing) {
  config_.widths = {16, 31};
  config_.train.model.head_width = 1;
  ASSERT_EQ(run(config_, {"--dry-run", "--json"}), 0) << err_;
  const base::Json plan = base::Json::parse(out_);
  ASSERT_EQ(plan["trials"].size(), 4U);
  int failed = 0;
  for (const base::Json& trial : plan["trials"]) {
    const bool bad = trial["status"] == "failed";
    failed += bad ? 1 : 0;
    EXPECT_EQ(trial["seconds"].get<double>() > 0, !bad);
    EXPECT_EQ(trial["flops"].get<double>() > 0, !bad);
  }
  EXPECT_EQ(failed, 1);
  EXPECT_GT(plan["seconds"].get<double>(), 0);
  ASSERT_EQ(run(config_, {"--dry-run"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("cannot be built"));
  EXPECT_FALSE(std::filesystem::exists(config_.out));
}

TEST_F(SearchTest, DryRunChecksTheTimesThatItPredicts) {
  config_.structures = {"dense"};
  config_.space.qkv = {"dense", "monarch", "low_rank:0.5"};
  config_.space.attention_out = {"dense", "monarch", "low_rank:0.5"};
  config_.space.ffn_in = {"dense", "monarch", "low_rank:0.5"};
  ASSERT_EQ(run(config_, {"--dry-run", "--check-times", "4", "--json"}), 0)
      << err_;
  const base::Json plan = base::Json::parse(out_);
  std::set<std::string> checked;
  for (const base::Json& step : plan["check"]["steps"]) {
    checked.insert(step["kind"]);
    EXPECT_GT(step["predicted_ms"].get<double>(), 0);
    EXPECT_GT(step["measured_ms"].get<double>(), 0);
  }
  EXPECT_EQ(checked.size(), 4U);
  EXPECT_GE(
      plan["check"]["worst_error"].get<double>(),
      plan["check"]["median_error"].get<double>());
  for (const base::Json& trial : plan["trials"]) {
    EXPECT_GT(trial["seconds"].get<double>(), 0);
  }
}

TEST_F(SearchTest, ConstraintsLeaveOutAndSeveralObjectivesGiveASet) {
  SearchConfig config = testing::tiny_config(data_, folder_ / "out");
  config.structures = {"dense", "monarch", "ffn_moe:E=4,k=2", "low_rank:0.5"};
  config.widths = {16, 32, 64};
  config.learning_rates = {2e-3, 6e-3};
  config.scheduler.kind = "model";
  config.scheduler.rungs = 2;
  config.scheduler.stop_gain = 0;
  config.objective = "flops, decode_ms, memory";
  config.constraints = {"memory <= 1.5 MB", "decode_ms <= 1e4 ms"};
  ASSERT_EQ(run(config, {"--dry-run"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("trials were not trained: memory <= 1.5 MB"));
  EXPECT_FALSE(std::filesystem::exists(config.out));
  ASSERT_EQ(run(config), 0) << err_;
  const auto json = [&] {
    return base::parse_json(
        testing::read(Folder{config.out}.report_json()), "report");
  };
  const base::Json first = json();
  EXPECT_THAT(
      first["notices"].dump(), HasSubstr("decode_ms <= 1e4 leaves out 0"));
  EXPECT_EQ(
      first["pareto"]["objectives"],
      base::Json({"flops", "decode_ms", "memory"}));
  ASSERT_FALSE(first["pareto"]["trials"].empty());
  for (const base::Json& row : first["pareto"]["trials"]) {
    EXPECT_LE(row["memory"].get<double>(), 1.5e6);
    EXPECT_GT(row["decode_ms"].get<double>(), 0);
  }
  EXPECT_FALSE(first["expectations"].is_null());
  // Nothing is measured or trained again.
  ASSERT_EQ(run(config), 0) << err_;
  EXPECT_EQ(json()["metadata"]["layer_ms"], first["metadata"]["layer_ms"]);
  EXPECT_EQ(json()["expectations"], first["expectations"]);

  config.constraints = {"memory <= 1 kB"};
  EXPECT_EQ(run(config), 2);
  EXPECT_THAT(err_, HasSubstr("no trial of the search keeps memory <= 1 kB"));
}

TEST_F(SearchTest, TwoWorkersShareTheWork) {
  config_.workers = 2;
  config_.budget.tokens *= 10;
  ASSERT_EQ(run(config_), 0) << err_;
  expect_complete(config_, propose(config_));
  std::map<std::string, int> workers;
  for (const store::Trial& trial : trials(config_)) {
    ++workers[trial.worker];
  }
  EXPECT_EQ(workers.size(), 2U);
}

TEST_F(SearchTest, HalvingGoesOnFromCheckpoints) {
  config_.structures = {"dense"};
  config_.widths = {16};
  config_.learning_rates = {1e-6, 1e-3, 1e-2, 3e-3};
  config_.scheduler.kind = "halving";
  config_.scheduler.eta = 2;
  config_.scheduler.rungs = 3;
  ASSERT_EQ(run(config_), 0) << err_;
  // 4 trials to 10 steps, 2 to 20, 1 to 40; the one that learns nothing goes
  // no further than the first rung.
  const std::map<int, std::int64_t> kEnds = {{1, 10}, {2, 20}, {3, 40}};
  std::map<int, int> passed;
  for (const store::Trial& trial : trials(config_)) {
    ++passed[trial.rung];
    EXPECT_EQ(trial.status, trial.rung == 3 ? Status::kDone : Status::kPruned);
    if (trial.rung < 3) {
      EXPECT_THAT(trial.reason, HasSubstr("went on"));
    }
    if (trial.learning_rate == 1e-6) {
      EXPECT_EQ(trial.rung, 1);
    }
    const auto curve = store::Store::open_read_only(Folder{config_.out}.store())
                           .curve(trial.id);
    EXPECT_EQ(curve.back().step, kEnds.at(trial.rung));
  }
  EXPECT_EQ(passed, (std::map<int, int>{{1, 2}, {2, 1}, {3, 1}}));

  // Whoever passed all rungs has the weights of a run without pauses.
  SearchConfig grid = config_;
  grid.scheduler = {};
  grid.out = (folder_ / "grid").string();
  for (const store::Trial& trial : trials(config_)) {
    if (trial.status == Status::kDone) {
      grid.learning_rates = {trial.learning_rate};
    }
  }
  ASSERT_EQ(run(grid), 0) << err_;
  expect_same_results(grid, config_);
  // Another scheduler does not fit into the folder.
  grid.out = config_.out;
  EXPECT_EQ(run(grid), 2);
  EXPECT_THAT(err_, HasSubstr("another scheduler"));
}

TEST_F(SearchTest, RecordsFailuresAndGoesOn) {
  testing::promise(
      "A trial that cannot be built (a width without a factorisation near its "
      "structure) is named at the start and recorded as failed.");
  testing::promise(
      "A trial that diverges or throws is recorded with its reason, and the "
      "search continues.");
  testing::promise(
      "A diverged trial has no final loss and is never a structure's best.");
  // 31 has no factors for Monarch; a learning rate of 1e30 diverges.
  config_.widths = {16, 31};
  config_.train.model.head_width = 1;
  config_.learning_rates = {1e-3, 1e30};
  config_.train.optimizer.clip_norm = 0;
  ASSERT_EQ(run(config_, {"--quiet"}), 0) << err_;
  int done = 0;
  for (const store::Trial& trial : trials(config_)) {
    if (trial.structure == "monarch" && trial.model == "gpt d31 L1") {
      EXPECT_EQ(trial.status, Status::kFailed);
      EXPECT_THAT(trial.reason, HasSubstr("31"));
    } else if (trial.learning_rate == 1e30) {
      EXPECT_EQ(trial.status, Status::kDiverged);
      EXPECT_THAT(
          trial.reason, ::testing::AnyOf(HasSubstr("loss"), HasSubstr("norm")));
      EXPECT_TRUE(std::isnan(trial.final_loss));
    } else {
      EXPECT_EQ(trial.status, Status::kDone);
      ++done;
    }
  }
  EXPECT_EQ(done, 3);
  const base::Json report =
      base::Json::parse(testing::read(Folder{config_.out}.report_json()));
  const auto store = store::Store::open_read_only(Folder{config_.out}.store());
  for (const base::Json& row : report.at("ranking")) {
    const auto best = store.find(row.at("best_trial").get<std::string>());
    ASSERT_TRUE(best) << row;
    EXPECT_EQ(best->learning_rate, 1e-3) << row;
  }
  EXPECT_THAT(err_, HasSubstr("2 of 8 trials cannot be built"));
}

TEST_F(SearchTest, ASearchWithoutAnyResultFails) {
  testing::promise(
      "A search in which no trial has a result says so and ends with exit code "
      "1.");
  config_.widths = {16};
  config_.structures = {"dense"};
  config_.learning_rates = {1e30};
  config_.train.optimizer.clip_norm = 0;
  EXPECT_EQ(run(config_, {"--quiet"}), 1);
  EXPECT_THAT(err_, HasSubstr("none of 1 trials has a result; dense"));
  EXPECT_EQ(trials(config_).at(0).status, Status::kDiverged);
  EXPECT_TRUE(std::filesystem::exists(Folder{config_.out}.report_json()));
}

TEST_F(SearchTest, OtherDataNeedAnotherFolder) {
  testing::promise("Other data need another folder.");
  config_.widths = {16};
  config_.structures = {"dense"};
  ASSERT_EQ(run(config_), 0) << err_;
  config_.train.data.path = testing::make_data(folder_, 2);
  EXPECT_EQ(run(config_), 2);
  EXPECT_THAT(err_, HasSubstr("another data"));
  // The same data elsewhere do not.
  std::filesystem::rename(data_, folder_ / "moved");
  config_.train.data.path = (folder_ / "moved").string();
  EXPECT_EQ(run(config_), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("0 to run"));
}

TEST_F(SearchTest, RefusesAStoreOfANewerVersion) {
  std::filesystem::create_directories(config_.out);
  const Folder folder{config_.out};
  { store::Store::open(folder.store()); }
  sqlite3* database = nullptr;
  sqlite3_open(folder.store().c_str(), &database);
  sqlite3_exec(database, "PRAGMA user_version = 99", nullptr, nullptr, nullptr);
  sqlite3_close(database);
  EXPECT_EQ(run(config_), 2);
  EXPECT_THAT(err_, HasSubstr("99"));
  EXPECT_EQ(std::count(err_.begin(), err_.end(), '\n'), 1) << err_;
}

TEST_F(SearchTest, OnlyOneSearchAtATime) {
  config_.budget.tokens = 1e9;
  Program first({"search", write_config(config_)}, folder_ / "first");
  const Folder folder{config_.out};
  for (int i = 0; i < 1000 && !std::filesystem::exists(folder.config()); ++i) {
    first.wait_for(0.02);
  }
  EXPECT_EQ(run(config_), 2);
  EXPECT_THAT(err_, HasSubstr("no other process"));
}

TEST_F(SearchTest, StopsWithCheckpointsAndTheNextGoesOn) {
  testing::promise(
      "Ctrl-C, SIGTERM and a terminal that hangs up write checkpoints and stop "
      "the search; a second Ctrl-C stops it at once.");
  SearchConfig whole = config_;
  whole.out = (folder_ / "whole").string();
  whole.budget.tokens = config_.budget.tokens = 1500 * 64;
  config_.structures = whole.structures = {"dense"};
  config_.widths = whole.widths = {16};
  config_.train.checkpoint_every = whole.train.checkpoint_every = 0;
  ASSERT_EQ(run(whole), 0) << err_;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    SCOPED_TRACE(signal);
    config_.out = (folder_ / std::to_string(signal)).string();
    const Proposal proposal = propose(config_).front();
    {
      Program program({"search", write_config(config_)}, folder_ / "stopped");
      const auto log =
          Folder{config_.out}.trial(proposal.trial.id) / "log.jsonl";
      for (int i = 0; i < 1000 && testing::read(log).size() < 500; ++i) {
        ASSERT_FALSE(program.wait_for(0.02)) << program.err();
      }
      program.signal(signal);
      EXPECT_EQ(program.wait(), 130) << program.err();
      EXPECT_THAT(program.err(), HasSubstr("the same command goes on"));
      EXPECT_EQ(trials(config_).front().status, Status::kQueued);
      EXPECT_GT(trials(config_).front().flops, 0);
      EXPECT_LT(trials(config_).front().flops, proposal.flops);
    }
    ASSERT_EQ(run(config_), 0) << err_;
    expect_complete(config_, propose(config_));
    expect_same_results(whole, config_);
  }
}

TEST_F(SearchTest, AFullDiskStopsItAndLosesNothing) {
  testing::promise(
      "A full disk stops the search with one line; what was written stays.");
  config_.widths = {16};
  ASSERT_EQ(run(config_), 0) << err_;
  // A limit on file size is what a full disk looks like to one process; the
  // checkpoints of wider models are larger than all that is there.
  config_.widths = {16, 64};
  {
    Program program(
        {"search", write_config(config_), "--quiet"},
        folder_ / "full",
        /*most_file_bytes=*/100'000);
    EXPECT_EQ(program.wait(), 1) << program.err();
    const std::string err = program.err();
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
  }
  int done = 0;
  for (const store::Trial& trial : trials(config_)) {
    done += trial.status == Status::kDone ? 1 : 0;
    EXPECT_NE(trial.status, Status::kFailed) << trial.reason;
  }
  EXPECT_GE(done, 2);
  ASSERT_EQ(run(config_), 0) << err_;
  expect_complete(config_, propose(config_));
}

// A trial that always kills its worker fails after `attempts`; the others are
// trained all the same.
TEST_F(SearchTest, GivesUpATrialThatKillsItsWorkers) {
  config_.structures = {"dense"};
  config_.budget.tokens = 64 * 20000;
  config_.widths = {16};
  config_.attempts = 2;
  Program program({"search", write_config(config_)}, folder_ / "stdout");
  int kills = 0;
  std::string last;
  for (int i = 0; i < 3000 && !program.wait_for(0.02); ++i) {
    for (const std::string& worker : running_workers(config_)) {
      if (worker != last) {
        last = worker;
        kill_process(worker);
        ++kills;
      }
    }
  }
  EXPECT_EQ(program.wait(), 1) << program.err();  // no trial has a result
  EXPECT_EQ(kills, 2);
  const store::Trial trial = trials(config_).front();
  EXPECT_EQ(trial.status, Status::kFailed);
  EXPECT_THAT(trial.reason, HasSubstr("exited 2 times"));
  EXPECT_THAT(trial.reason, HasSubstr("signal 9"));
}

// Kills of the search and of its workers, at random moments and in the one
// where a trial has written its last checkpoint and may not be in the store
// yet.
class SearchKillTest : public SearchTest {
 protected:
  enum class Victim { kSearch, kWorker };

  // The processes that the search has started.
  static std::vector<pid_t> children_of(pid_t pid) {
    std::istringstream text(
        testing::read(fmt::format("/proc/{0}/task/{0}/children", pid)));
    std::vector<pid_t> children;
    for (pid_t child = 0; text >> child;) {
      children.push_back(child);
    }
    return children;
  }

  void kill(Program& program, Victim victim) {
    const auto workers = children_of(program.pid());
    if (victim == Victim::kSearch || workers.empty()) {
      program.signal(SIGKILL);
      program.wait();
      return;
    }
    ::kill(workers[random_.below(workers.size())], SIGKILL);
  }

  // Waits for one more trial whose last checkpoint is there, at most so long.
  void wait_for_last_checkpoint(
      Program& program,
      const std::vector<Proposal>& proposals,
      double seconds) {
    std::vector<std::filesystem::path> missing;
    for (const Proposal& proposal : proposals) {
      const auto path = Folder{config_.out}.trial(proposal.trial.id) /
                        "checkpoints" /
                        fmt::format("step_{:08}", proposal.config.steps);
      if (!std::filesystem::exists(path)) {
        missing.push_back(path);
      }
    }
    const auto end = std::chrono::steady_clock::now() +
                     std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end && !program.wait_for(0)) {
      for (const auto& path : missing) {
        if (std::filesystem::exists(path)) {
          std::this_thread::sleep_for(
              std::chrono::microseconds(random_.below(3000)));
          return;
        }
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  // The configuration without one of its structures or widths.
  SearchConfig smaller() {
    SearchConfig config = config_;
    if (random_.uniform() < 0.5) {
      config.structures.erase(
          config.structures.begin() +
          static_cast<std::ptrdiff_t>(random_.below(config.structures.size())));
    } else {
      config.widths.erase(
          config.widths.begin() +
          static_cast<std::ptrdiff_t>(random_.below(config.widths.size())));
    }
    return config;
  }

  base::Random random_{
      std::stoull(testing::setting("EINFORGE_SEARCH_SEED", "1"))};
};

// The number of kills comes from EINFORGE_SEARCH_KILLS
// (scripts/search_kill_test.sh).
TEST_F(SearchKillTest, EndsWithTheResultsOfAnUndisturbedOne) {
  testing::promise(
      "When a worker dies (out of memory, `kill -9`), another takes its place "
      "and resumes the trial from its last checkpoint.");
  testing::promise(
      "On the CPU, a search that was killed, however often, ends with bitwise "
      "the results of an undisturbed one, as long as `workers` and the number "
      "of cores stay the same.");
  const int wanted = std::stoi(testing::setting("EINFORGE_SEARCH_KILLS", "6"));
  config_.structures = {"dense", "monarch", "btt_moe:E=4,k=2"};
  config_.workers = 2;
  config_.attempts = 1000;
  config_.budget.tokens = 64 * 400;
  SearchConfig whole = config_;
  whole.out = (folder_ / "whole").string();
  ASSERT_EQ(run(whole), 0) << err_;
  const std::vector<Proposal> proposals = propose(config_);
  expect_complete(whole, proposals);

  int searches = 1;
  std::map<std::string, int> kinds;
  std::map<std::string, double> seconds;  // of trials that are done
  for (int kills = 0; kills < wanted;) {
    if (std::filesystem::exists(Folder{config_.out}.config())) {
      for (const store::Trial& trial : trials(config_)) {
        if (trial.status == Status::kDone) {
          seconds.emplace(trial.id, trial.seconds);
        }
      }
    }
    const bool shrunk = random_.uniform() < 0.3;
    Program program(
        {"search", write_config(shrunk ? smaller() : config_)},
        folder_ / "killed");
    const bool at_record = random_.uniform() < 0.5;
    if (at_record) {
      wait_for_last_checkpoint(program, proposals, 10);
    } else {
      program.wait_for(0.3 + 3 * random_.uniform());
    }
    if (program.wait_for(0)) {
      ASSERT_EQ(program.wait(), 0) << program.err();
      if (!shrunk) {
        // It is done: the kills that are left are for another one.
        expect_complete(config_, proposals);
        expect_same_results(whole, config_);
        std::filesystem::remove_all(config_.out);
        seconds.clear();
        ++searches;
      }
      continue;
    }
    const Victim victim =
        random_.uniform() < 0.4 ? Victim::kWorker : Victim::kSearch;
    kill(program, victim);
    ++kills;
    ++kinds[fmt::format(
        "{} {}{}",
        victim == Victim::kWorker ? "worker" : "search",
        at_record ? "at the record" : "at any time",
        shrunk ? ", fewer trials" : "")];
    if (victim == Victim::kWorker) {
      // The search may have resumed the trial by then, or not.
      program.wait_for(3 * random_.uniform());
      program.signal(SIGKILL);
      program.wait();
    }
  }
  for (const auto& [kind, count] : kinds) {
    std::printf("%d kills: %s\n", count, kind.c_str());
  }
  std::printf("in %d searches\n", searches);
  ASSERT_EQ(run(config_), 0) << err_;
  expect_complete(config_, proposals);
  expect_same_results(whole, config_);
  for (const store::Trial& trial : trials(config_)) {
    if (seconds.contains(trial.id)) {
      EXPECT_EQ(trial.seconds, seconds.at(trial.id)) << "it was trained twice";
    }
  }
}

// Searches that decide while trials run, killed as above: the same trials train
// to the same rungs with the same results, and no rung is trained twice. The
// schedulers come from EINFORGE_SEARCH_SCHEDULERS, the kills of each from
// EINFORGE_SEARCH_KILLS (scripts/search_kill_test.sh).
TEST_F(SearchKillTest, AsynchronousSearchesDecideTheSame) {
  const int wanted = std::stoi(testing::setting("EINFORGE_SEARCH_KILLS", "2"));
  config_.structures = {"dense", "monarch", "low_rank:0.5", "btt:0.25"};
  config_.learning_rates = {3e-3, 1e-2, 1.0};  // the last is too high
  config_.scheduler.rungs = 2;
  config_.scheduler.eta = 2;
  config_.scheduler.stop_gain = 0.02;
  config_.workers = 2;
  config_.attempts = 1000;
  config_.budget.tokens = 64 * 100;

  // What was decided and what came of it, by trial.
  struct Outcome {
    int rung = 0;
    Status status = Status::kQueued;
    std::vector<std::pair<std::int64_t, std::uint64_t>> curve;
    bool operator==(const Outcome&) const = default;
  };
  const auto outcomes = [](const SearchConfig& config) {
    std::map<std::string, Outcome> result;
    const auto store = store::Store::open_read_only(Folder{config.out}.store());
    for (const store::Trial& trial : store.trials()) {
      Outcome& outcome = result[trial.id];
      outcome.rung = trial.rung;
      outcome.status = trial.status;
      for (const store::CurvePoint& point : store.curve(trial.id)) {
        outcome.curve.emplace_back(point.step, bits(point.val_loss));
      }
    }
    return result;
  };
  for (const std::string& kind : base::split(
           testing::setting("EINFORGE_SEARCH_SCHEDULERS", "model"), ',')) {
    SCOPED_TRACE(kind);
    config_.scheduler.kind = kind;
    config_.out = (folder_ / (kind + "_calm")).string();
    ASSERT_EQ(run(config_), 0) << err_;
    const auto calm = outcomes(config_);
    EXPECT_GT(calm.size(), 3U);
    config_.out = (folder_ / (kind + "_killed")).string();
    // Seconds at the ends of rungs, by trial and step: measured once.
    std::map<std::pair<std::string, std::int64_t>, double> seconds;
    const auto check = [&] {
      const auto store =
          store::Store::open_read_only(Folder{config_.out}.store());
      for (const store::Trial& trial : store.trials()) {
        const auto curve = store.curve(trial.id);
        for (const store::CurvePoint& point : curve) {
          const auto known = seconds.find({trial.id, point.step});
          if (known != seconds.end()) {
            EXPECT_EQ(point.seconds, known->second)
                << trial.id << " trained twice to step " << point.step;
          }
        }
        if (!curve.empty() && trial.rung > 0 &&
            (trial.status == Status::kPruned ||
             trial.status == Status::kDone)) {
          seconds[{trial.id, curve.back().step}] = curve.back().seconds;
        }
      }
    };
    int searches = 1;
    for (int kills = 0; kills < wanted;) {
      Program program({"search", write_config(config_)}, folder_ / "killed");
      if (program.wait_for(0.3 + 2.5 * random_.uniform())) {
        ASSERT_EQ(program.wait(), 0) << program.err();
        check();
        EXPECT_EQ(outcomes(config_), calm);
        std::filesystem::remove_all(config_.out);
        seconds.clear();
        ++searches;
        continue;
      }
      ++kills;
      if (random_.uniform() < 0.4) {
        kill(program, Victim::kWorker);
        program.wait_for(2 * random_.uniform());
      }
      program.signal(SIGKILL);
      program.wait();
      if (std::filesystem::exists(Folder{config_.out}.config())) {
        check();
      }
    }
    ASSERT_EQ(run(config_), 0) << err_;
    check();
    EXPECT_EQ(outcomes(config_), calm);
    std::printf(
        "%s: %d kills in %d searches\n", kind.c_str(), wanted, searches);
  }
}

// Killed workers and killed others of their teams alike.
TEST_F(SearchKillTest, TrialsOfSeveralProcesses) {
  config_.structures = {"dense", "btt_moe:E=4,k=2"};
  config_.widths = {16};
  config_.attempts = 1000;
  config_.budget.tokens = 64 * 160;
  SearchConfig one = config_;
  one.out = (folder_ / "one").string();
  ASSERT_EQ(run(one), 0) << err_;
  config_.processes_per_trial = 2;
  SearchConfig whole = config_;
  whole.out = (folder_ / "whole").string();
  ASSERT_EQ(run(whole), 0) << err_;
  expect_complete(whole, propose(whole));
  // Sums in another order: a mixture's choices make much of that, a dense
  // layer little in so few steps.
  const auto point = [](const SearchConfig& config) {
    const auto store = store::Store::open_read_only(Folder{config.out}.store());
    for (const store::Trial& trial : store.trials()) {
      if (trial.structure == "dense") {
        return store.curve(trial.id).at(1).val_loss;
      }
    }
    return -1.0;
  };
  EXPECT_NEAR(point(whole), point(one), 1e-4);

  Program program({"search", write_config(config_)}, folder_ / "killed");
  int kills = 0;
  for (int i = 0; i < 4 && !program.wait_for(1 + 2 * random_.uniform()); ++i) {
    std::vector<pid_t> victims = children_of(program.pid());
    if (!victims.empty()) {
      const auto others = children_of(victims.front());
      if (i % 2 == 0 && !others.empty()) {
        victims = others;
      }
      kills += ::kill(victims.front(), SIGKILL) == 0 ? 1 : 0;
    }
  }
  EXPECT_EQ(program.wait(), 0) << program.err();
  EXPECT_GT(kills, 0);
  expect_complete(config_, propose(config_));
  expect_same_results(whole, config_);

  config_.processes_per_trial = 3;  // of a batch of 4
  EXPECT_EQ(run(config_), 2);
  EXPECT_THAT(err_, HasSubstr("processes_per_trial"));
}

}  // namespace
}  // namespace einforge::search
