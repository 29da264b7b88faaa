#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <string>

// The little of SQLite that the store needs, with its result codes turned into
// this project's errors.
namespace einforge::store::internal {

// Where a database really is: symbolic links are followed, so that the files
// that SQLite puts beside it are the same whichever name it is opened by. Holds
// the folder open and names the file by it, so that neither the length of the
// path nor a folder that is renamed matters.
class Location {
 public:
  // Throws base::IoError when the folder cannot be opened.
  explicit Location(const std::filesystem::path& path);
  Location(const Location&) = delete;
  Location& operator=(const Location&) = delete;
  ~Location();

  // The file, or with a suffix one beside it.
  std::filesystem::path path(const char* suffix = "") const;
  // May a file be made beside it, and the file itself be written?
  bool writable() const;

 private:
  int folder_ = -1;
  std::string name_;
};

class Database {
 public:
  enum class Mode { kReadWrite, kReadOnly };

  // Throws base::IoError when the file cannot be opened or, for kReadWrite,
  // written.
  Database(const std::filesystem::path& path, Mode mode);
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database();

  // Runs statements that return no rows of interest.
  void execute(const char* sql);
  std::int64_t query_integer(const char* sql);
  std::string query_text(const char* sql);
  // Rows changed by the last INSERT, UPDATE or DELETE.
  int changes() const { return sqlite3_changes(handle_); }

  // As the user gave it, for messages.
  const std::filesystem::path& path() const { return path_; }
  sqlite3* handle() const { return handle_; }

  // Throws what `code` means: InvalidInput for a file that is no database of
  // ours or is damaged, IoError for everything the world does to us.
  [[noreturn]] void fail(int code) const;

  // A statement starts: how much work it may do is counted from here. No
  // statement runs for ever, whatever is in the file.
  void start_counting() const { work_ = 0; }

 private:
  static int count_work(void* self);

  std::filesystem::path path_;
  Location location_;
  sqlite3* handle_ = nullptr;
  mutable std::int64_t work_ = 0;
};

// A prepared statement. Doubles travel bit for bit, but for NaN, which SQLite
// cannot hold and which is NULL in the table.
//
// SQL may call einforge_checksum(value, ...): a 64-bit hash of the values and
// their types.
class Statement {
 public:
  Statement(const Database& database, const char* sql);
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement();

  // Parameters in the order of their '?'.
  Statement& bind(const std::string& value);
  Statement& bind(std::int64_t value);
  Statement& bind(int value) { return bind(std::int64_t{value}); }
  Statement& bind(double value);

  // Advances to the next row; false when there is none.
  bool step();
  // Runs to the end and makes the statement ready to be bound again.
  void run();

  // Columns of the current row, from 0.
  std::string text(int column) const;
  std::int64_t integer(int column) const;
  double real(int column) const;

 private:
  const Database& database_;
  sqlite3_stmt* handle_ = nullptr;
  int bound_ = 0;
};

// BEGIN IMMEDIATE, so that the write lock is taken before anything is read;
// rolled back unless committed.
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
