#pragma once

#include <sqlite3.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "einforge/store/database.h"

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
  // On a disk of this machine, or in its memory.
  bool is_local() const;

 private:
  int folder_ = -1;
  std::string name_;
};

// One SQLite file; nothing in it is executed, whatever is in it.
class SqliteDatabase : public Database {
 public:
  enum class Mode { kReadWrite, kReadOnly };

  // Throws base::IoError when the file cannot be opened or, for kReadWrite,
  // written; base::InvalidInput when it lies where several machines write,
  // where SQLite's locks do not hold.
  SqliteDatabase(const std::filesystem::path& path, Mode mode);
  ~SqliteDatabase() override;

  std::unique_ptr<Statement> prepare(const std::string& sql) override;
  void execute(const std::string& sql) override;
  // BEGIN IMMEDIATE: the write lock is taken before anything is read.
  void begin() override { execute("BEGIN IMMEDIATE"); }
  void commit() override { execute("COMMIT"); }
  void rollback() noexcept override;
  void recover(std::chrono::duration<double> waited) override;
  const std::string& name() const override { return name_; }
  bool is_shared() const override { return false; }
  bool has_checksums() const override { return true; }
  Columns columns() override;
  // By the SQL function einforge_checksum(value, ...), a 64-bit hash of the
  // values and their types.
  std::string checksum(std::string_view values) const override;
  std::string now() const override;
  std::string locking(bool) const override { return ""; }

  sqlite3* handle() const { return handle_; }

  // Throws what `code` means: InvalidInput for a file that is no database of
  // ours or is damaged, IoError for everything the world does to us.
  [[noreturn]] void fail(int code) const;

  // A statement starts: how much work it may do is counted from here. No
  // statement runs for ever, whatever is in the file.
  void start_counting() const { work_ = 0; }

 private:
  static int count_work(void* self);

  std::string name_;
  Location location_;
  sqlite3* handle_ = nullptr;
  mutable std::int64_t work_ = 0;
};

// See Store::open and Store::open_read_only.
std::unique_ptr<Database> open_sqlite(const std::filesystem::path& path);
std::unique_ptr<Database> read_sqlite(const std::filesystem::path& path);

// Whether statfs(2) says by this type that a file lies on another machine.
bool is_network_file_system(std::int64_t type);

}  // namespace einforge::store::internal
