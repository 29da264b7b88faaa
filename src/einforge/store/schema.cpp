#include "einforge/store/schema.h"

#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "einforge/base/error.h"

namespace einforge::store::internal {
namespace {

// "eifg", in the header of the file: tells our stores from other databases.
constexpr std::int64_t kApplicationId = 0x65696667;

// ANY columns hold doubles exactly; a REAL column would lose the sign of -0.
constexpr const char* kSchema = R"sql(
CREATE TABLE trials (
  sequence INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  config TEXT NOT NULL,
  structure TEXT NOT NULL,
  taxonomy TEXT NOT NULL,
  model TEXT NOT NULL,
  parameters INTEGER NOT NULL,
  flops ANY,
  learning_rate ANY,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  final_loss ANY,
  seconds ANY,
  worker TEXT NOT NULL,
  rung INTEGER NOT NULL,
  routers TEXT NOT NULL DEFAULT 'null',
  fence INTEGER NOT NULL DEFAULT 0,
  lease ANY,
  checksum INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX trials_by_status ON trials (status, sequence);
CREATE TABLE curves (
  trial INTEGER NOT NULL REFERENCES trials (sequence),
  step INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  flops ANY,
  seconds ANY,
  train_loss ANY,
  val_loss ANY,
  checksum INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (trial, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE metadata (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL,
  checksum INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
)sql";

std::int64_t version_of(Database& database) {
  return database.query_integer("PRAGMA user_version");
}

// Changing the journal mode needs the file alone and does not wait for it, so
// that two processes that open a new store at once would fail each other.
void use_write_ahead_log(Database& database) {
  for (int attempt = 0;; ++attempt) {
    try {
      database.execute("PRAGMA journal_mode = WAL");
      return;
    } catch (const base::IoError&) {
      if (attempt == 50) {
        throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
}

// What the checksums of a version's trials are of.
std::string trial_values(std::int64_t version) {
  std::string values = kTrialColumns;
  if (version < 4) {
    values.resize(values.find(", fence"));
  }
  if (version < 2) {
    values.replace(values.find("routers"), std::string::npos, "'null'");
  }
  return values;
}

void add_column(
    Database& database, std::string_view table, std::string_view definition) {
  database.execute(
      fmt::format("ALTER TABLE {} ADD COLUMN {}", table, definition));
}

}  // namespace

bool is_empty(Database& database) {
  return database.query_integer("SELECT count(*) FROM sqlite_schema") == 0 &&
         database.query_integer("PRAGMA application_id") == 0;
}

void create_schema(Database& database) {
  use_write_ahead_log(database);
  Transaction transaction(database);
  if (is_empty(database)) {  // nobody was faster
    database.execute(kSchema);
    database.execute(fmt::format(
        "PRAGMA application_id = {}; PRAGMA user_version = {}",
        kApplicationId,
        kSchemaVersion));
  }
  transaction.commit();
}

void check_is_ours(Database& database) {
  const std::string& name = database.name();
  base::check(
      database.query_integer("PRAGMA application_id") == kApplicationId,
      "'{}': expected an einforge store; got {}",
      name,
      is_empty(database) ? "an empty file" : "another program's database");
  const std::int64_t version = version_of(database);
  base::check(
      version >= 1 && version <= kSchemaVersion,
      "'{}': expected a store of version {} or older; got version {}{}",
      name,
      kSchemaVersion,
      version,
      version > kSchemaVersion ? "; a newer einforge wrote it" : "");
  // Views, triggers and virtual tables have no page of their own.
  base::check(
      database.query_integer("SELECT count(*) FROM sqlite_schema "
                             "WHERE rootpage IS NULL OR rootpage = 0") == 0,
      "'{}': expected an einforge store; got views or triggers in it",
      name);
  // With the indexes, which quick_check leaves out: a queued trial that an
  // index does not find would never run.
  const std::string state = database.query_text("PRAGMA integrity_check(1)");
  base::check(
      state == "ok",
      "'{}': expected an intact store; got a damaged one ({})",
      name,
      state.substr(0, state.find('\n')));
}

void migrate(Database& database) {
  if (version_of(database) == kSchemaVersion) {
    return;
  }
  Transaction transaction(database);
  const std::int64_t version = version_of(database);  // another was faster?
  if (version < 2) {
    add_column(database, "trials", "routers TEXT NOT NULL DEFAULT 'null'");
  }
  if (version < 3) {
    for (const auto& [table, values] :
         {std::pair<std::string, std::string>{"trials", trial_values(3)},
          {"curves", kCurveColumns},
          {"metadata", kMetadataColumns}}) {
      add_column(database, table, "checksum INTEGER NOT NULL DEFAULT 0");
      database.execute(fmt::format(
          "UPDATE {} SET checksum = {}", table, database.checksum(values)));
    }
  }
  if (version < 4) {
    add_column(database, "trials", "fence INTEGER NOT NULL DEFAULT 0");
    add_column(database, "trials", "lease ANY");
    // What is damaged stays so.
    database.execute(fmt::format(
        "UPDATE trials SET checksum = {} WHERE checksum = {}",
        database.checksum(trial_values(4)),
        database.checksum(trial_values(3))));
  }
  database.execute(fmt::format("PRAGMA user_version = {}", kSchemaVersion));
  transaction.commit();
}

Columns columns_of(Database& database) {
  const std::int64_t version = version_of(database);
  const auto check = [&](const std::string& values) {
    return version < 3 ? "1" : "checksum = " + database.checksum(values);
  };
  const std::string trial = trial_values(version);
  return {
      fmt::format(
          "{}{}, {}", trial, version < 4 ? ", 0, NULL" : "", check(trial)),
      fmt::format("{}, {}", kCurveColumns, check(kCurveColumns)),
      fmt::format("{}, {}", kMetadataColumns, check(kMetadataColumns))};
}

}  // namespace einforge::store::internal
