#pragma once

#include <cstdint>
#include <string>

#include "einforge/store/sqlite.h"

// The tables of a store, and the versions that they came in.
namespace einforge::store::internal {

// Raise it with every change of the tables, and teach both databases the step.
//   2: trials have routers
//   3: rows have checksums
//   4: trials have fencing numbers and leases
constexpr std::int64_t kSchemaVersion = 4;

// The columns of each table in the order of their fields, but for checksums,
// which are of them, and the place of a trial.
constexpr const char* kTrialColumns =
    "id, config, structure, taxonomy, model, parameters, flops, learning_rate, "
    "status, reason, final_loss, seconds, worker, rung, routers, fence, lease";
constexpr const char* kCurveColumns =
    "trial, step, tokens, flops, seconds, train_loss, val_loss";
constexpr const char* kMetadataColumns = "key, value";

// No tables at all yet.
bool is_empty(Database& database);

// Makes the tables of a new store, in write-ahead mode. Another process may do
// the same at once.
void create_schema(Database& database);

// Throws base::InvalidInput unless the file is an intact store of ours.
void check_is_ours(Database& database);

// Brings the tables of an older version up to date.
void migrate(Database& database);

// Of the version that the file has.
Columns columns_of(Database& database);

}  // namespace einforge::store::internal
