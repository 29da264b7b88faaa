#include "einforge/store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>

#include "einforge/base/error.h"
#include "tests/store/temporary_store.h"

namespace einforge::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::make_trial;
using ::testing::Not;
using testing::TemporaryDirectory;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::uint64_t bits(double value) {
  return std::bit_cast<std::uint64_t>(value);
}

template <typename Error>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing or another type was thrown";
  return "";
}

void run_sql(const std::filesystem::path& path, const char* sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(database);
  sqlite3_close(database);
}

// Version 1 had no routers, version 2 no checksums.
TEST(Store, ReadsAndUpdatesOlderVersions) {
  for (const int version : {1, 2}) {
    const TemporaryDirectory directory;
    const auto path = directory / "s.db";
    Trial first = make_trial("aa");
    first.routers = {{"step", 5}};
    {
      Store store = Store::open(path);
      store.add(first);
      store.append_curve("aa", {{10, 1, 1, 1, 3, 3}});
      store.set_metadata("name", "old");
    }
    for (const char* table : {"trials", "curves", "metadata"}) {
      run_sql(
          path,
          fmt::format("ALTER TABLE {} DROP COLUMN checksum", table).c_str());
    }
    if (version == 1) {
      run_sql(path, "ALTER TABLE trials DROP COLUMN routers");
    }
    run_sql(path, fmt::format("PRAGMA user_version = {}", version).c_str());
    const base::Json routers = version == 1 ? base::Json() : first.routers;
    const auto expect_content = [&](const Store& store) {
      EXPECT_EQ(store.find("aa")->routers, routers);
      EXPECT_EQ(store.trials().at(0).config, first.config);
      EXPECT_EQ(store.curve("aa").at(0).step, 10);
      EXPECT_EQ(store.metadata()["name"], "old");
    };
    expect_content(Store::open_read_only(path));
    {
      Store store = Store::open(path);
      expect_content(store);
      EXPECT_TRUE(store.add(make_trial("bb")));
      Trial trial = *store.claim("aa", "me");
      trial.routers = {{"step", 1}};
      store.update(trial);
    }
    const Store store = Store::open_read_only(path);
    EXPECT_EQ(store.find("aa")->routers["step"], 1);
    EXPECT_EQ(store.find("aa")->worker, "me");
    EXPECT_TRUE(store.find("bb")->routers.is_null());
  }
}

TEST(Store, KeepsEveryFieldOfATrial) {
  const TemporaryDirectory directory;
  Trial trial = make_trial("aa");
  trial.config = base::Json::parse(
      R"({"z": 1, "a": {"rate": 0.003, "text": "Größe \"x\"\n"}, "n": null})");
  trial.taxonomy = {{"omega", 0.5}, {"psi", 1.0}, {"nu", 0.5}};
  trial.reason = "line one\nline two";
  trial.rung = 3;
  trial.routers = {{"step", 7}, {"warnings", {{{"layer", "blocks_0.ffn"}}}}};
  {
    Store store = Store::open(directory / "s.db");
    EXPECT_TRUE(store.add(trial));
    trial.status = Status::kDiverged;
    store.update(trial);
  }
  const Store store = Store::open_read_only(directory / "s.db");
  const auto found = store.find("aa");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->config.dump(), trial.config.dump());  // order of keys too
  EXPECT_EQ(found->taxonomy, trial.taxonomy);
  EXPECT_EQ(found->routers, trial.routers);
  EXPECT_EQ(found->structure, trial.structure);
  EXPECT_EQ(found->model, trial.model);
  EXPECT_EQ(found->parameters, trial.parameters);
  EXPECT_EQ(bits(found->flops), bits(trial.flops));
  EXPECT_EQ(bits(found->learning_rate), bits(trial.learning_rate));
  EXPECT_EQ(found->status, Status::kDiverged);
  EXPECT_EQ(found->reason, trial.reason);
  EXPECT_EQ(bits(found->final_loss), bits(trial.final_loss));
  EXPECT_EQ(bits(found->seconds), bits(trial.seconds));
  EXPECT_EQ(found->worker, trial.worker);
  EXPECT_EQ(found->rung, 3);
  EXPECT_FALSE(store.find("bb"));
}

TEST(Store, DoublesComeBackBitForBit) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  store.add(make_trial("aa"));
  const std::vector<double> values = {
      0.0,
      -0.0,
      1.0,
      0.1,
      -1e300,
      std::numeric_limits<double>::denorm_min(),
      std::numeric_limits<double>::max(),
      std::numeric_limits<double>::infinity(),
      -std::numeric_limits<double>::infinity(),
      9007199254740993.0,
      std::nextafter(1.0, 2.0)};
  std::vector<CurvePoint> points;
  for (const double value : values) {
    points.push_back(
        {static_cast<std::int64_t>(points.size()),
         7,
         value,
         value,
         value,
         value});
  }
  store.append_curve("aa", points);
  const auto read = store.curve("aa");
  ASSERT_EQ(read.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(bits(read[i].flops), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].seconds), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].train_loss), bits(values[i])) << values[i];
    EXPECT_EQ(bits(read[i].val_loss), bits(values[i])) << values[i];
  }
}

TEST(Store, NanStaysNan) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  Trial trial = make_trial("aa");
  trial.final_loss = kNan;
  store.add(trial);
  store.append_curve("aa", {{0, 0, 0, 0, kNan, 2.5}, {1, 1, 1, 1, 2.5, -kNan}});
  EXPECT_TRUE(std::isnan(store.find("aa")->final_loss));
  const auto curve = store.curve("aa");
  EXPECT_TRUE(std::isnan(curve[0].train_loss));
  EXPECT_EQ(curve[0].val_loss, 2.5);
  EXPECT_TRUE(std::isnan(curve[1].val_loss));
}

TEST(Store, AddsATrialOnlyOnce) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  Trial trial = make_trial("aa");
  EXPECT_TRUE(store.add(trial));
  trial.structure = "other";
  EXPECT_FALSE(store.add(trial));
  ASSERT_EQ(store.trials().size(), 1u);
  EXPECT_EQ(store.trials()[0].structure, make_trial("aa").structure);
}

TEST(Store, AddsAndUpdatesManyInTheOrderGiven) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  std::vector<Trial> trials = {
      make_trial("zz"), make_trial("aa"), make_trial("mm")};
  store.add(trials[1]);
  EXPECT_EQ(store.add(trials), 2);
  trials[0].status = Status::kFailed;
  trials[2].reason = "why";
  store.update(trials);
  const auto found = store.trials();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].id, "aa");
  EXPECT_EQ(found[1].status, Status::kFailed);
  EXPECT_EQ(found[2].reason, "why");
  // All or nothing.
  trials[0].reason = "not written";
  trials.push_back(make_trial("unknown"));
  EXPECT_THROW(store.update(trials), base::InvalidInput);
  EXPECT_EQ(store.find("zz")->reason, "");
}

TEST(Store, ClaimsWhatIsQueuedAlone) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  store.add(make_trial("aa"));
  const auto claimed = store.claim("aa", "host:1");
  ASSERT_TRUE(claimed);
  EXPECT_EQ(claimed->id, "aa");
  EXPECT_EQ(claimed->status, Status::kRunning);
  EXPECT_EQ(store.find("aa")->status, Status::kRunning);
  EXPECT_EQ(store.find("aa")->worker, "host:1");
  EXPECT_FALSE(store.claim("aa", "host:2"));
  EXPECT_EQ(store.find("aa")->worker, "host:1");
  EXPECT_FALSE(store.claim("unknown", "host:1"));
}

TEST(Store, ReclaimsTheTrialsOfDeadWorkersOnly) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  for (const char* id : {"aa", "bb", "cc"}) {
    store.add(make_trial(id));
  }
  const auto alive = [](const std::string& w) { return w == "alive"; };
  EXPECT_TRUE(store.reclaim(alive).empty());
  store.claim("aa", "dead");
  store.claim("bb", "alive");
  EXPECT_EQ(store.reclaim(alive), std::vector<std::string>{"aa"});
  EXPECT_EQ(store.find("aa")->status, Status::kQueued);
  EXPECT_EQ(store.find("aa")->worker, "");
  EXPECT_EQ(store.find("bb")->status, Status::kRunning);
  EXPECT_TRUE(store.claim("aa", "new"));
}

TEST(Store, RewrittenPointsReplaceTheOldOnes) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  store.add(make_trial("aa"));
  store.append_curve("aa", {{10, 1, 1, 1, 3, 3}, {0, 0, 0, 0, 4, 4}});
  store.append_curve("aa", {{10, 1, 1, 1, 2, 2}, {20, 2, 2, 2, 1, 1}});
  const auto curve = store.curve("aa");
  ASSERT_EQ(curve.size(), 3u);
  EXPECT_EQ(curve[0].step, 0);
  EXPECT_EQ(curve[1].step, 10);
  EXPECT_EQ(curve[1].val_loss, 2);
  EXPECT_EQ(curve[2].step, 20);
}

TEST(Store, UnknownTrialsAreNamed) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  EXPECT_THAT(
      message_of<base::InvalidInput>([&] { store.append_curve("q", {{}}); }),
      HasSubstr("'q'"));
  EXPECT_THROW(store.update(make_trial("q")), base::InvalidInput);
  EXPECT_THROW(store.curve("q"), base::InvalidInput);
}

TEST(Store, KeepsMetadata) {
  const TemporaryDirectory directory;
  Store store = Store::open(directory / "s.db");
  store.set_metadata("seed", 1);
  store.set_metadata("seed", 18446744073709551615u);
  store.set_metadata("hardware", {{"cpu", "x\xff"}});  // not UTF-8
  EXPECT_EQ(store.metadata()["seed"].get<std::uint64_t>(), ~std::uint64_t{0});
  EXPECT_EQ(store.metadata()["hardware"]["cpu"], "x\uFFFD");
}

TEST(Store, OddFileNamesWork) {
  const TemporaryDirectory directory;
  const auto path = directory / "a?b#c%20 d'.db";
  Store::open(path).add(make_trial("aa"));
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
}

TEST(Store, ReadOnlyNeverMakesAFile) {
  const TemporaryDirectory directory;
  EXPECT_THAT(
      message_of<base::InvalidInput>(
          [&] { Store::open_read_only(directory / "none.db"); }),
      HasSubstr("no such file"));
  EXPECT_FALSE(std::filesystem::exists(directory / "none.db"));
  Store::open(directory / "s.db");
  Store store = Store::open_read_only(directory / "s.db");
  EXPECT_THROW(store.add(make_trial("aa")), base::IoError);
}

TEST(Store, ReadingLeavesNoFileBehind) {
  const TemporaryDirectory directory;
  const auto path = directory / "s.db";
  Store::open(path).add(make_trial("aa"));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 1u);
  const auto files = [&] {
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(directory.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  };
  EXPECT_THAT(files(), ::testing::ElementsAre("s.db"));
  {
    // Nor does it take away what another still needs.
    Store writer = Store::open(path);
    writer.add(make_trial("bb"));
    EXPECT_EQ(Store::open_read_only(path).trials().size(), 2u);
    writer.add(make_trial("cc"));
    EXPECT_EQ(Store::open_read_only(path).trials().size(), 3u);
  }
  EXPECT_THAT(files(), ::testing::ElementsAre("s.db"));
}

TEST(Store, ReadsWhileAnotherWrites) {
  const TemporaryDirectory directory;
  Store writer = Store::open(directory / "s.db");
  writer.add(make_trial("aa"));
  const Store reader = Store::open_read_only(directory / "s.db");
  writer.add(make_trial("bb"));
  EXPECT_EQ(reader.trials().size(), 2u);
}

struct BadFile {
  const char* name;
  std::function<void(const std::filesystem::path&)> make;
  const char* expected;
};

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

void make_store(const std::filesystem::path& path) {
  Store store = Store::open(path);
  for (int i = 0; i < 200; ++i) {
    store.add(make_trial(std::to_string(i)));
  }
}

class StoreRefuses : public ::testing::TestWithParam<BadFile> {};

TEST_P(StoreRefuses, InOneLine) {
  const TemporaryDirectory directory;
  const auto path = directory / "bad.db";
  GetParam().make(path);
  for (const bool read_only : {false, true}) {
    EXPECT_THAT(
        message_of<base::InvalidInput>([&] {
          if (read_only) {
            Store::open_read_only(path).trials();
          } else {
            Store::open(path).trials();
          }
        }),
        AllOf(
            HasSubstr(GetParam().expected),
            HasSubstr("bad.db"),
            Not(HasSubstr("\n"))));
  }
}

INSTANTIATE_TEST_SUITE_P(
    ,
    StoreRefuses,
    ::testing::Values(
        BadFile{
            "text",
            [](const auto& p) { write(p, std::string(5000, 'x')); },
            "another kind of file"},
        BadFile{
            "shortText",
            [](const auto& p) { write(p, "structure,run,compute,loss\n"); },
            "another kind of file"},
        BadFile{
            "directory",
            [](const auto& p) { std::filesystem::create_directory(p); },
            "a directory"},
        BadFile{
            "foreignDatabase",
            [](const auto& p) { run_sql(p, "CREATE TABLE t (x)"); },
            "another program's database"},
        BadFile{
            "otherApplication",
            [](const auto& p) { run_sql(p, "PRAGMA application_id = 7"); },
            "another program's database"},
        BadFile{
            "newerVersion",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "PRAGMA user_version = 99");
            },
            "got version 99"},
        BadFile{
            "truncated",
            [](const auto& p) {
              make_store(p);
              std::filesystem::resize_file(p, 20000);
            },
            "damaged"},
        BadFile{
            "overwrittenPages",
            [](const auto& p) {
              make_store(p);
              std::fstream file(p, std::ios::in | std::ios::out);
              file.seekp(8192);
              file << std::string(20000, '\x5a');
            },
            "damaged"},
        BadFile{
            "unknownStatus",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "UPDATE trials SET status = 'odd' WHERE id = '3'");
            },
            "a checksum mismatch in its row '3'"},
        BadFile{
            "brokenJson",
            [](const auto& p) {
              make_store(p);
              run_sql(p, "UPDATE trials SET config = '{' WHERE id = '3'");
            },
            "a checksum mismatch in its row '3'"}),
    [](const auto& item) { return item.param.name; });

TEST(Store, AnEmptyFileIsNoStoreToReadButBecomesOne) {
  const TemporaryDirectory directory;
  write(directory / "s.db", "");
  EXPECT_THAT(
      message_of<base::InvalidInput>(
          [&] { Store::open_read_only(directory / "s.db"); }),
      HasSubstr("an empty file"));
  EXPECT_TRUE(Store::open(directory / "s.db").add(make_trial("aa")));
}

TEST(Store, AMissingDirectoryIsAnIoError) {
  EXPECT_THROW(Store::open("/no/such/directory/s.db"), base::IoError);
}

}  // namespace
}  // namespace einforge::store
