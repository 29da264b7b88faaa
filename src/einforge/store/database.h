#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "einforge/base/error.h"

// What the store needs of a database: SQL that SQLite and PostgreSQL both
// understand, and expressions for where they differ.
namespace einforge::store::internal {

// The connection is gone, or another transaction was in the way: what was not
// committed did not happen, what was being committed may have. Trying again
// after Database::recover() may help.
class TryAgain : public base::IoError {
 public:
  using base::IoError::IoError;
};

// A prepared statement. Doubles travel bit for bit, but for NaN, which is NULL
// in the tables.
class Statement {
 public:
  Statement() = default;
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  virtual ~Statement() = default;

  // Parameters in the order of their '?'.
  virtual Statement& bind(const std::string& value) = 0;
  virtual Statement& bind(std::int64_t value) = 0;
  virtual Statement& bind(double value) = 0;
  Statement& bind(int value) { return bind(std::int64_t{value}); }

  // Advances to the next row; false when there is none.
  virtual bool step() = 0;
  // Runs to the end and makes the statement ready to be bound again. Returns
  // how many rows an INSERT, UPDATE or DELETE has changed.
  virtual int run() = 0;

  // Columns of the current row, from 0.
  virtual std::string text(int column) const = 0;
  virtual std::int64_t integer(int column) const = 0;
  virtual double real(int column) const = 0;
};

// What to SELECT: the columns in the order of their fields, and last whether
// the row's checksum is right.
struct Columns {
  std::string trials;
  std::string curves;
  std::string metadata;
};

class Database {
 public:
  Database() = default;
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  virtual ~Database() = default;

  virtual std::unique_ptr<Statement> prepare(const std::string& sql) = 0;
  // Runs statements that return no rows of interest.
  virtual void execute(const std::string& sql) = 0;
  std::int64_t query_integer(const std::string& sql);
  std::string query_text(const std::string& sql);

  // So that nobody else writes what is read between the two.
  virtual void begin() = 0;
  virtual void commit() = 0;
  // Never throws: what is not committed is gone anyway.
  virtual void rollback() noexcept = 0;
  // After TryAgain, `waited` after the first one. Throws base::IoError when
  // there is no use in trying any more.
  virtual void recover(std::chrono::duration<double> waited) = 0;

  // As the user gave it, without a password, for messages.
  virtual const std::string& name() const = 0;
  // Used from several machines.
  virtual bool is_shared() const = 0;
  virtual Columns columns() = 0;
  // Rows carry a checksum, which checksum() is an expression for.
  virtual bool has_checksums() const = 0;
  // Of the values, a list with commas.
  virtual std::string checksum(std::string_view values) const = 0;
  // Seconds since 1970 on the database's clock.
  virtual std::string now() const = 0;
  // Ends a SELECT of rows that this transaction is about to write. With `skip`
  // those that another one is about to write are left out.
  virtual std::string locking(bool skip) const = 0;
};

// Rolled back unless committed.
class Transaction {
 public:
  explicit Transaction(Database& database);
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();

  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

}  // namespace einforge::store::internal
