// Stores that were damaged or made to do harm: each is refused in one line and
// in little time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <functional>

#include "einforge/base/error.h"
#include "einforge/base/random.h"
#include "einforge/store/store.h"
#include "tests/store/temporary_store.h"

namespace einforge::store {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::make_trial;
using ::testing::Not;
using testing::TemporaryDirectory;

void run_sql(const fs::path& path, const std::string& sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  EXPECT_EQ(
      sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(database);
  sqlite3_close(database);
}

std::int64_t query(const fs::path& path, const char* sql) {
  sqlite3* database = nullptr;
  sqlite3_open(path.c_str(), &database);
  std::int64_t answer = -1;
  sqlite3_exec(
      database,
      sql,
      [](void* into, int, char** values, char**) {
        *static_cast<std::int64_t*>(into) = std::stoll(values[0]);
        return 0;
      },
      &answer,
      nullptr);
  sqlite3_close(database);
  return answer;
}

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void make_store(const fs::path& path, int trials = 60) {
  Store store = Store::open(path);
  std::vector<Trial> all;
  for (int i = 0; i < trials; ++i) {
    all.push_back(make_trial(fmt::format("trial{}", i)));
  }
  store.add(all);
  for (int i = 0; i < std::min(trials, 10); ++i) {
    store.append_curve(
        all[static_cast<std::size_t>(i)].id,
        {{0, 0, 0, 0, 4, 4}, {10, 1, 1, 1, 3, 3}});
  }
  store.set_metadata("name", "victim");
}

// Reads all that there is.
void read(const Store& store) {
  for (const Trial& trial : store.trials()) {
    store.curve(trial.id);
  }
  store.metadata();
}

// The message with which a store is refused, "" where it is taken.
std::string refusal(const fs::path& path, bool read_only) {
  try {
    read(read_only ? Store::open_read_only(path) : Store::open(path));
  } catch (const base::InvalidInput& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const fs::path& path, const char* why) {
  for (const bool read_only : {true, false}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_THAT(
        refusal(path, read_only),
        AllOf(
            HasSubstr(why),
            HasSubstr(path.filename().string()),
            Not(HasSubstr("\n"))));
    EXPECT_LT(
        std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  }
}

constexpr const char* kEndless =
    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) ";

TEST(HostileStore, EndlessViews) {
  const TemporaryDirectory directory;
  for (const std::string table : {"trials", "curves", "metadata"}) {
    const fs::path path = directory / (table + ".db");
    make_store(path);
    run_sql(
        path,
        fmt::format(
            "PRAGMA foreign_keys = OFF; DROP TABLE {0}; "
            "CREATE VIEW {0} AS {1} SELECT x AS id, x AS config, x AS "
            "structure, x AS taxonomy, x AS model, x AS parameters, x AS flops "
            "FROM n",
            table,
            kEndless));
    expect_refused(path, "views or triggers");
  }
}

TEST(HostileStore, Triggers) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  make_store(path);
  run_sql(
      path,
      fmt::format(
          "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN "
          "INSERT INTO metadata (key, value) SELECT x, 'x' FROM ({} SELECT x "
          "FROM n); END",
          kEndless));
  expect_refused(path, "views or triggers");
}

TEST(HostileStore, ColumnsThatAreMissing) {
  const TemporaryDirectory directory;
  for (const auto& [table, column] :
       {std::pair{"trials", "routers"},
        std::pair{"curves", "flops"},
        std::pair{"metadata", "value"}}) {
    const fs::path path = directory / (std::string(table) + ".db");
    make_store(path);
    run_sql(path, fmt::format("ALTER TABLE {} DROP COLUMN {}", table, column));
    expect_refused(path, "no such column");
  }
}

// Whatever is changed in a row, as by a disk that errs, is noticed.
TEST(HostileStore, EveryChangedValueIsAMismatch) {
  for (const char* change :
       {"UPDATE trials SET config = '{\"seed\":2}' WHERE id = 'trial3'",
        "UPDATE trials SET final_loss = 0.25 WHERE id = 'trial3'",
        "UPDATE trials SET final_loss = NULL WHERE id = 'trial3'",
        "UPDATE trials SET status = 'done' WHERE id = 'trial3'",
        "UPDATE trials SET parameters = 7 WHERE id = 'trial3'",
        "UPDATE trials SET structure = model, model = structure",
        "UPDATE curves SET val_loss = val_loss + 1e-15 WHERE step = 10",
        "UPDATE curves SET step = 11 WHERE step = 10",
        "UPDATE curves SET train_loss = '3' WHERE step = 10",
        "UPDATE metadata SET value = '\"x\"'"}) {
    const TemporaryDirectory directory;
    const fs::path path = directory / "s.db";
    make_store(path, 5);
    EXPECT_EQ(refusal(path, true), "");
    run_sql(path, change);
    SCOPED_TRACE(change);
    expect_refused(path, "checksum mismatch");
  }
}

// As from a program that writes with the checksums of a store.
TEST(HostileStore, DeepAndLongJson) {
  const TemporaryDirectory directory;
  const std::string deep(100'000, '[');
  for (const auto& [name, value] :
       {std::pair{"unclosed", deep},
        std::pair{"deep", deep + std::string(100'000, ']')},
        std::pair{"object", R"({"a":)" + deep}}) {
    for (const char* table : {"trials", "metadata"}) {
      const fs::path path = directory / fmt::format("{}_{}.db", name, table);
      make_store(path, 2);
      // Version 2 has no checksums, and whoever makes it do harm can make them.
      testing::make_older(path, 2);
      run_sql(
          path,
          fmt::format(
              "UPDATE {} SET {} = '{}'",
              table,
              std::string_view(table) == "trials" ? "routers" : "value",
              value));
      expect_refused(path, "expected JSON");
    }
  }
}

// Members that are many are read in a time that is linear in their number.
TEST(HostileStore, ManyKeys) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  make_store(path, 2);
  base::Json many = base::Json::object();
  for (int i = 0; i < 200'000; ++i) {
    base::add_member(many, fmt::format("key{}", i), i);
  }
  Store store = Store::open(path);
  store.set_metadata("many", many);
  const std::clock_t start = std::clock();
  EXPECT_EQ(store.metadata().at("many").size(), 200'000u);
  EXPECT_LT(std::clock() - start, 10 * CLOCKS_PER_SEC);
}

// An index that has lost a row: quick_check passes, and the row's trial would
// never be found as running.
TEST(HostileStore, AnIndexThatMissesARow) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  make_store(path);
  run_sql(path, "VACUUM");
  const auto page = static_cast<std::size_t>(query(
      path, "SELECT rootpage FROM sqlite_schema WHERE name LIKE '%_status'"));
  const auto size = static_cast<std::size_t>(query(path, "PRAGMA page_size"));
  std::string bytes = read_bytes(path);
  const std::size_t found = bytes.find("queued", (page - 1) * size);
  ASSERT_LT(found, page * size);
  bytes[found] = static_cast<char>(bytes[found] ^ 0x04);
  std::ofstream(path, std::ios::binary) << bytes;
  expect_refused(path, "damaged");
}

// Any bit: the store is refused in one line, or it is read as it was.
TEST(HostileStore, AnyFlippedBitIsRefusedOrHarmless) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  make_store(path);
  const std::string bytes = read_bytes(path);
  base::Random random(3);
  int refused = 0;
  for (int i = 0; i < 100; ++i) {
    std::string damaged = bytes;
    char& byte = damaged[random.below(damaged.size())];
    byte = static_cast<char>(byte ^ (1 << random.below(8)));
    std::ofstream(path, std::ios::binary) << damaged;
    const auto start = std::chrono::steady_clock::now();
    for (const bool read_only : {true, false}) {
      std::string message;
      try {
        message = refusal(path, read_only);
      } catch (const base::IoError& error) {
        message = error.what();
      }
      EXPECT_THAT(message, Not(HasSubstr("\n")));
      refused += message.empty() ? 0 : 1;
    }
    EXPECT_LT(
        std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  }
  EXPECT_GT(refused, 20);  // much of the file is free space
}

// Generated columns cost work that is in no row.
TEST(HostileStore, GeneratedColumns) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "s.db";
  make_store(path, 2);
  run_sql(
      path,
      fmt::format(
          "DROP TABLE metadata; CREATE TABLE metadata (key, value, checksum "
          "AS (length(hex(zeroblob(400000))) + length(hex(key)))); "
          "INSERT INTO metadata (key, value) {} SELECT x, x FROM n LIMIT 100",
          kEndless));
  for (const bool read_only : {true, false}) {
    EXPECT_NE(refusal(path, read_only), "");
  }
}

// A path of 4,000 characters, which SQLite itself refuses from 512 on.
TEST(StorePath, MayBeLong) {
  const TemporaryDirectory directory;
  fs::path folder = directory.path();
  while (folder.string().size() < 3'700) {
    folder /= std::string(200, 'd');
  }
  fs::create_directories(folder);
  const fs::path path = folder / (std::string(200, 'f') + ".db");
  make_store(path, 3);
  EXPECT_EQ(Store::open(path).trials().size(), 3u);
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 3u);
}

TEST(StorePath, MayBeAnyBytes) {
  const TemporaryDirectory directory;
  const fs::path path = directory / "caf\xe9 %41?x#y.db";
  make_store(path, 3);
  EXPECT_TRUE(fs::exists(path));
  EXPECT_EQ(Store::open_read_only(path).trials().size(), 3u);
}

// The log lies beside the file, not beside the link: whoever opens the file by
// its other name sees all that was written.
TEST(StorePath, MayBeALink) {
  const TemporaryDirectory directory;
  fs::create_directories(directory / "real");
  fs::create_directories(directory / "links");
  const fs::path real = directory / "real" / "s.db";
  const fs::path link = directory / "links" / "l.db";
  fs::create_symlink("../real/s.db", link);  // before there is a file
  Store writer = Store::open(link);
  writer.add(make_trial("aa"));
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_TRUE(fs::exists(fs::path(real).concat("-wal")));
  EXPECT_FALSE(fs::exists(fs::path(link).concat("-wal")));
  EXPECT_EQ(Store::open_read_only(real).trials().size(), 1u);
  Store::open(real).add(make_trial("bb"));
  EXPECT_EQ(writer.trials().size(), 2u);
}

// As when a user renames the folder of a search that runs.
TEST(StorePath, TheFolderMayMoveWhileItIsOpen) {
  const TemporaryDirectory directory;
  fs::create_directories(directory / "old");
  Store store = Store::open(directory / "old" / "s.db");
  store.add(make_trial("aa"));
  fs::rename(directory / "old", directory / "new");
  store.add(make_trial("bb"));
  EXPECT_EQ(
      Store::open_read_only(directory / "new" / "s.db").trials().size(), 2u);
}

}  // namespace
}  // namespace einforge::store
