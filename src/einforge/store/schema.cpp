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
// Raise it with every change of the schema, and teach migrate() the step.
//   2: trials have routers
//   3: rows have checksums
constexpr std::int64_t kSchemaVersion = 3;

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

// What checksums are of. Before version 2 there are no routers.
constexpr const char* kTrial =
    "id, config, structure, taxonomy, model, parameters, flops, learning_rate, "
    "status, reason, final_loss, seconds, worker, rung, {}";
constexpr const char* kCurve =
    "trial, step, tokens, flops, seconds, train_loss, val_loss";
constexpr const char* kMetadata = "key, value";

std::string trial_values(std::int64_t version) {
  return fmt::format(fmt::runtime(kTrial), version >= 2 ? "routers" : "'null'");
}

std::string checksum_of(std::string_view values) {
  return fmt::format("einforge_checksum({})", values);
}

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
                         kSchemaVersion)
                         .c_str());
  }
  transaction.commit();
}

void check_is_ours(Database& database) {
  const std::string name = database.path().string();
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
    database.execute(
        "ALTER TABLE trials ADD COLUMN routers TEXT NOT NULL DEFAULT 'null'");
  }
  if (version < 3) {
    for (const auto& [table, values] :
         {std::pair<const char*, std::string>{"trials", trial_values(2)},
          {"curves", kCurve},
          {"metadata", kMetadata}}) {
      database.execute(fmt::format(
                           "ALTER TABLE {0} ADD COLUMN checksum INTEGER NOT "
                           "NULL DEFAULT 0; UPDATE {0} SET checksum = {1}",
                           table,
                           checksum_of(values))
                           .c_str());
    }
  }
  database.execute(
      fmt::format("PRAGMA user_version = {}", kSchemaVersion).c_str());
  transaction.commit();
}

Columns columns_of(Database& database) {
  const std::int64_t version = version_of(database);
  const auto select = [version](std::string_view values) {
    return fmt::format(
        "{}, {}",
        values,
        version >= 3 ? "checksum = " + checksum_of(values) : "1");
  };
  return {select(trial_values(version)), select(kCurve), select(kMetadata)};
}

std::string trial_checksum() {
  return checksum_of(trial_values(kSchemaVersion));
}

}  // namespace einforge::store::internal
