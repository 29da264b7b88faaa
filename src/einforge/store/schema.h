#pragma once

#include <string>

#include "einforge/store/sqlite.h"

// The tables of a store, and the versions that they came in.
namespace einforge::store::internal {

// What to SELECT from a version: the columns in the order of their fields, and
// last whether the row's checksum is right. Versions before 3 have none.
struct Columns {
  std::string trials;
  std::string curves;
  std::string metadata;
};

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

// The expression for the checksum of a row of trials.
std::string trial_checksum();

}  // namespace einforge::store::internal
