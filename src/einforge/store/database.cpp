#include "einforge/store/database.h"

namespace einforge::store::internal {

std::int64_t Database::query_integer(const std::string& sql) {
  const auto statement = prepare(sql);
  return statement->step() ? statement->integer(0) : 0;
}

std::string Database::query_text(const std::string& sql) {
  const auto statement = prepare(sql);
  return statement->step() ? statement->text(0) : "";
}

Transaction::Transaction(Database& database) : database_(database) {
  database_.begin();
}

Transaction::~Transaction() {
  if (open_) {
    database_.rollback();
  }
}

void Transaction::commit() {
  database_.commit();
  open_ = false;
}

}  // namespace einforge::store::internal
