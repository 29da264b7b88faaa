#include "einforge/store/sqlite.h"

#include <unistd.h>

#include <cmath>
#include <limits>
#include <system_error>

#include "einforge/base/error.h"

namespace einforge::store::internal {
namespace {

namespace fs = std::filesystem;

// Long enough for a machine busy with training, short enough to notice a lock
// that is never given back.
constexpr int kBusyMilliseconds = 60'000;

// SQLite reads a write-ahead log through a file beside the database. Where that
// file cannot be made, or not be removed again, the database can still be read
// when there is no log.
bool must_open_immutable(const fs::path& path) {
  const fs::path parent = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code error;
  const auto log_size = fs::file_size(fs::path(path).concat("-wal"), error);
  const bool writable =
      ::access(parent.c_str(), W_OK) == 0 && ::access(path.c_str(), W_OK) == 0;
  return !writable && (error || log_size == 0);
}

// As a URI: '?', '#' and '%' mean something there.
std::string to_uri(const fs::path& path, bool immutable) {
  std::string uri = "file:";
  for (const char c : fs::absolute(path).string()) {
    if (c == '?' || c == '#' || c == '%') {
      uri += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    } else {
      uri += c;
    }
  }
  return immutable ? uri + "?immutable=1" : uri;
}

}  // namespace

Database::Database(const fs::path& path, Mode mode) : path_(path) {
  const bool read_only = mode == Mode::kReadOnly;
  // Only a connection that may write takes the files of the log away when it
  // is the last to close; query_only, below, holds a reader to reading.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI |
                    (read_only ? 0 : SQLITE_OPEN_CREATE);
  const std::string uri = to_uri(path, read_only && must_open_immutable(path));
  const int code = sqlite3_open_v2(uri.c_str(), &handle_, flags, nullptr);
  try {
    if (code != SQLITE_OK) {
      fail(code);
    }
    // SQLite falls back to reading a file that it may not write.
    if (!read_only && sqlite3_db_readonly(handle_, "main") == 1) {
      base::throw_io_error(
          fmt::format("cannot write the store '{}'", path.string()), EACCES);
    }
    sqlite3_extended_result_codes(handle_, 1);
    sqlite3_busy_timeout(handle_, kBusyMilliseconds);
    if (read_only) {
      execute("PRAGMA query_only = ON");
    }
  } catch (...) {
    sqlite3_close(handle_);
    throw;
  }
}

Database::~Database() {
  sqlite3_close(handle_);
}

void Database::execute(const char* sql) {
  const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) {
    fail(code);
  }
}

std::int64_t Database::query_integer(const char* sql) {
  Statement statement(*this, sql);
  return statement.step() ? statement.integer(0) : 0;
}

std::string Database::query_text(const char* sql) {
  Statement statement(*this, sql);
  return statement.step() ? statement.text(0) : "";
}

void Database::fail(int code) const {
  const std::string name = path_.string();
  const int system_error =
      handle_ == nullptr ? 0 : sqlite3_system_errno(handle_);
  switch (code & 0xff) {
    case SQLITE_NOTADB:
      throw base::InvalidInput(fmt::format(
          "'{}': expected an einforge store; got another kind of file", name));
    case SQLITE_CORRUPT:
      throw base::InvalidInput(fmt::format(
          "'{}': expected an intact store; got a damaged one ({})",
          name,
          sqlite3_errmsg(handle_)));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      throw base::IoError(
          fmt::format("the store '{}' is locked by another process", name));
    case SQLITE_FULL:
      base::throw_io_error(
          fmt::format("cannot write the store '{}'", name), ENOSPC);
    case SQLITE_READONLY:
      base::throw_io_error(
          fmt::format("cannot write the store '{}'", name), EACCES);
    default:
      if (system_error != 0) {
        base::throw_io_error(
            fmt::format("cannot use the store '{}'", name), system_error);
      }
      throw base::IoError(fmt::format(
          "cannot use the store '{}': {}",
          name,
          handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_)));
  }
}

Statement::Statement(const Database& database, const char* sql)
    : database_(database) {
  const int code =
      sqlite3_prepare_v2(database.handle(), sql, -1, &handle_, nullptr);
  if (code != SQLITE_OK) {
    database_.fail(code);
  }
}

Statement::~Statement() {
  sqlite3_finalize(handle_);
}

Statement& Statement::bind(const std::string& value) {
  const int code = sqlite3_bind_text64(
      handle_,
      ++bound_,
      value.data(),
      value.size(),
      SQLITE_TRANSIENT,
      SQLITE_UTF8);
  if (code != SQLITE_OK) {
    database_.fail(code);
  }
  return *this;
}

Statement& Statement::bind(std::int64_t value) {
  sqlite3_bind_int64(handle_, ++bound_, value);
  return *this;
}

Statement& Statement::bind(double value) {
  sqlite3_bind_double(handle_, ++bound_, value);  // NaN becomes NULL
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(handle_);
  if (code != SQLITE_ROW && code != SQLITE_DONE) {
    database_.fail(code);
  }
  return code == SQLITE_ROW;
}

void Statement::run() {
  while (step()) {
  }
  sqlite3_reset(handle_);
  bound_ = 0;
}

std::string Statement::text(int column) const {
  const auto* bytes = sqlite3_column_text(handle_, column);
  const int size = sqlite3_column_bytes(handle_, column);
  return bytes == nullptr ? ""
                          : std::string(
                                reinterpret_cast<const char*>(bytes),
                                static_cast<std::size_t>(size));
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(handle_, column);
}

double Statement::real(int column) const {
  return sqlite3_column_type(handle_, column) == SQLITE_NULL
             ? std::numeric_limits<double>::quiet_NaN()
             : sqlite3_column_double(handle_, column);
}

Transaction::Transaction(Database& database) : database_(database) {
  database_.execute("BEGIN IMMEDIATE");
}

Transaction::~Transaction() {
  if (open_) {
    // A failed statement may have rolled back already; then this is a no-op.
    sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
}

void Transaction::commit() {
  database_.execute("COMMIT");
  open_ = false;
}

}  // namespace einforge::store::internal
