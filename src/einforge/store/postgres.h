#pragma once

#include <memory>
#include <string>

#include "einforge/store/database.h"

// A search's tables in a schema of a PostgreSQL database.
namespace einforge::store::internal {

// See Store::open and Store::open_read_only. Throws base::InvalidInput when
// this build has no PostgreSQL.
std::unique_ptr<Database> open_postgres(const std::string& location);
std::unique_ptr<Database> read_postgres(const std::string& location);

}  // namespace einforge::store::internal
