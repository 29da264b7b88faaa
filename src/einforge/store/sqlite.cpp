#include "einforge/store/sqlite.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string_view>
#include <system_error>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/store/schema.h"

namespace einforge::store::internal {
namespace {

namespace fs = std::filesystem;

// Long enough for a machine busy with training, short enough to notice a lock
// that is never given back.
constexpr int kBusyMilliseconds = 60'000;

// Instructions of SQLite's virtual machine between two looks at the bound.
constexpr int kWorkUnit = 1'000'000;

// SQLite's own file system but that it takes a path as it is given, where the
// original makes it absolute and then refuses 512 characters and more.
const char* plain_paths() {
  static sqlite3_vfs vfs = [] {
    sqlite3_vfs copy = *sqlite3_vfs_find("unix");
    copy.pNext = nullptr;
    copy.zName = "einforge";
    copy.xFullPathname =
        [](sqlite3_vfs*, const char* path, int size, char* out) -> int {
      const int length =
          std::snprintf(out, static_cast<std::size_t>(size), "%s", path);
      return length < size ? SQLITE_OK : SQLITE_CANTOPEN;
    };
    return copy;
  }();
  static const int registered = sqlite3_vfs_register(&vfs, /*makeDflt=*/0);
  return registered == SQLITE_OK ? vfs.zName : nullptr;
}

// SQLite reads a write-ahead log through a file beside the database. Where that
// file cannot be made, or not be removed again, the database can still be read
// when there is no log.
bool must_open_immutable(const Location& location) {
  std::error_code error;
  const auto log_size = fs::file_size(location.path("-wal"), error);
  return !location.writable() && (error || log_size == 0);
}

// As a URI: '?', '#' and '%' mean something there.
std::string to_uri(const fs::path& path, bool immutable) {
  std::string uri = "file:";
  for (const char c : path.string()) {
    if (c == '?' || c == '#' || c == '%') {
      uri += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    } else {
      uri += c;
    }
  }
  return immutable ? uri + "?immutable=1" : uri;
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

std::string_view bytes_of(sqlite3_value* value) {
  const auto* bytes = sqlite3_value_type(value) == SQLITE_BLOB
                          ? sqlite3_value_blob(value)
                          : sqlite3_value_text(value);
  return {
      static_cast<const char*>(bytes),
      static_cast<std::size_t>(sqlite3_value_bytes(value))};
}

void sum_values(sqlite3_context* context, int count, sqlite3_value** values) {
  std::uint64_t sum = 0;
  for (int i = 0; i < count; ++i) {
    const int type = sqlite3_value_type(values[i]);
    // What comes before decides the seed: the order of the values counts.
    std::uint64_t seed =
        base::hash64({reinterpret_cast<const char*>(&type), sizeof type}, sum);
    if (type == SQLITE_INTEGER || type == SQLITE_FLOAT) {
      const auto bits =
          type == SQLITE_INTEGER
              ? static_cast<std::uint64_t>(sqlite3_value_int64(values[i]))
              : std::bit_cast<std::uint64_t>(sqlite3_value_double(values[i]));
      sum = base::hash64(
          {reinterpret_cast<const char*>(&bits), sizeof bits}, seed);
    } else {
      sum = base::hash64(
          type == SQLITE_NULL ? std::string_view() : bytes_of(values[i]), seed);
    }
  }
  sqlite3_result_int64(context, static_cast<sqlite3_int64>(sum));
}

class SqliteStatement : public Statement {
 public:
  SqliteStatement(const SqliteDatabase& database, const std::string& sql)
      : database_(database) {
    database.start_counting();
    const int code = sqlite3_prepare_v2(
        database.handle(), sql.c_str(), -1, &handle_, nullptr);
    if (code != SQLITE_OK) {
      database_.fail(code);
    }
  }
  ~SqliteStatement() override { sqlite3_finalize(handle_); }

  Statement& bind(const std::string& value) override {
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

  Statement& bind(std::int64_t value) override {
    sqlite3_bind_int64(handle_, ++bound_, value);
    return *this;
  }

  Statement& bind(double value) override {
    sqlite3_bind_double(handle_, ++bound_, value);  // NaN becomes NULL
    return *this;
  }

  bool step() override {
    const int code = sqlite3_step(handle_);
    if (code != SQLITE_ROW && code != SQLITE_DONE) {
      database_.fail(code);
    }
    return code == SQLITE_ROW;
  }

  int run() override {
    while (step()) {
    }
    sqlite3_reset(handle_);
    database_.start_counting();
    bound_ = 0;
    return sqlite3_changes(database_.handle());
  }

  std::string text(int column) const override {
    const auto* bytes = sqlite3_column_text(handle_, column);
    const int size = sqlite3_column_bytes(handle_, column);
    return bytes == nullptr ? ""
                            : std::string(
                                  reinterpret_cast<const char*>(bytes),
                                  static_cast<std::size_t>(size));
  }

  std::int64_t integer(int column) const override {
    return sqlite3_column_int64(handle_, column);
  }

  double real(int column) const override {
    return sqlite3_column_type(handle_, column) == SQLITE_NULL
               ? std::numeric_limits<double>::quiet_NaN()
               : sqlite3_column_double(handle_, column);
  }

 private:
  const SqliteDatabase& database_;
  sqlite3_stmt* handle_ = nullptr;
  int bound_ = 0;
};

void check_no_directory(const fs::path& path) {
  base::check(
      !fs::is_directory(path),
      "'{}': expected a store; got a directory",
      path.string());
}

}  // namespace

bool is_network_file_system(std::int64_t type) {
  // Those that linux/magic.h does not name, from the kernel's sources.
  constexpr std::int64_t kLustre = 0x0bd00bd0;
  constexpr std::int64_t kGpfs = 0x47504653;
  constexpr std::int64_t kBeeGfs = 0x19830326;
  switch (type & 0xffffffff) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case CEPH_SUPER_MAGIC:
    case AFS_SUPER_MAGIC:
    case CODA_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case kLustre:
    case kGpfs:
    case kBeeGfs:
      return true;
    default:
      return false;
  }
}

Location::Location(const fs::path& path) {
  fs::path file = path;
  std::error_code error;
  constexpr int kMostLinks = 40;
  for (int i = 0; i < kMostLinks && fs::is_symlink(file, error); ++i) {
    const fs::path target = fs::read_symlink(file, error);
    file = target.is_absolute() ? target : file.parent_path() / target;
  }
  name_ = file.filename().string();
  const fs::path folder = file.has_parent_path() ? file.parent_path() : ".";
  folder_ = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder_ < 0) {
    base::throw_io_error(
        fmt::format("cannot use the store '{}'", path.string()), errno);
  }
}

Location::~Location() {
  ::close(folder_);
}

fs::path Location::path(const char* suffix) const {
  return fmt::format("/proc/self/fd/{}/{}{}", folder_, name_, suffix);
}

bool Location::writable() const {
  return ::faccessat(folder_, ".", W_OK, 0) == 0 &&
         ::faccessat(folder_, name_.c_str(), W_OK, 0) == 0;
}

bool Location::is_local() const {
  struct statfs status {};
  return ::fstatfs(folder_, &status) != 0 ||
         !is_network_file_system(status.f_type);
}

SqliteDatabase::SqliteDatabase(const fs::path& path, Mode mode)
    : name_(path.string()), location_(path) {
  const bool read_only = mode == Mode::kReadOnly;
  base::check(
      read_only || location_.is_local(),
      "'{}': expected a store on a disk of this machine, since SQLite's locks "
      "do not hold on a network file system; put it elsewhere, or give --store "
      "postgresql://HOST/DATABASE",
      name_);
  // Only a connection that may write takes the files of the log away when it
  // is the last to close; query_only, below, holds a reader to reading.
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI |
                    (read_only ? 0 : SQLITE_OPEN_CREATE);
  const std::string uri =
      to_uri(location_.path(), read_only && must_open_immutable(location_));
  const int code = sqlite3_open_v2(uri.c_str(), &handle_, flags, plain_paths());
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
    // The file may come from anywhere: nothing in it is to be executed.
    for (const int option :
         {SQLITE_DBCONFIG_ENABLE_VIEW,
          SQLITE_DBCONFIG_ENABLE_TRIGGER,
          SQLITE_DBCONFIG_TRUSTED_SCHEMA}) {
      sqlite3_db_config(handle_, option, 0, nullptr);
    }
    sqlite3_db_config(handle_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_create_function(
        handle_,
        "einforge_checksum",
        -1,
        SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY,
        nullptr,
        sum_values,
        nullptr,
        nullptr);
    sqlite3_progress_handler(handle_, kWorkUnit, count_work, this);
    if (read_only) {
      execute("PRAGMA query_only = ON");
    }
  } catch (...) {
    sqlite3_close(handle_);
    throw;
  }
}

SqliteDatabase::~SqliteDatabase() {
  sqlite3_close(handle_);
}

// What reading a whole store takes is well under one instruction of SQLite's
// virtual machine a byte.
int SqliteDatabase::count_work(void* self) {
  const auto& database = *static_cast<const SqliteDatabase*>(self);
  database.work_ += kWorkUnit;
  constexpr std::int64_t kAlways = 100'000'000;  // some seconds
  constexpr std::int64_t kPerByte = 20;
  std::int64_t bytes = 0;
  for (const char* suffix : {"", "-wal"}) {
    std::error_code error;
    const auto size = fs::file_size(database.location_.path(suffix), error);
    bytes += error ? 0 : static_cast<std::int64_t>(size);
  }
  return database.work_ > kAlways + kPerByte * bytes ? 1 : 0;
}

void SqliteDatabase::execute(const std::string& sql) {
  start_counting();
  const int code =
      sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) {
    fail(code);
  }
}

void SqliteDatabase::rollback() noexcept {
  // A failed statement may have rolled back already; then this is a no-op.
  sqlite3_exec(handle_, "ROLLBACK", nullptr, nullptr, nullptr);
}

void SqliteDatabase::recover(std::chrono::duration<double> /*waited*/) {
  throw base::IoError(fmt::format("cannot use the store '{}'", name_));
}

Columns SqliteDatabase::columns() {
  return columns_of(*this);
}

std::string SqliteDatabase::checksum(std::string_view values) const {
  return fmt::format("einforge_checksum({})", values);
}

std::string SqliteDatabase::now() const {
  return "((julianday('now') - 2440587.5) * 86400.0)";
}

std::unique_ptr<Statement> SqliteDatabase::prepare(const std::string& sql) {
  return std::make_unique<SqliteStatement>(*this, sql);
}

void SqliteDatabase::fail(int code) const {
  const std::string& name = name_;
  const int system_error =
      handle_ == nullptr ? 0 : sqlite3_system_errno(handle_);
  switch (code & 0xff) {
    case SQLITE_NOTADB:
      throw base::InvalidInput(fmt::format(
          "'{}': expected an einforge store; got another kind of file", name));
    case SQLITE_INTERRUPT:
      throw base::InvalidInput(fmt::format(
          "'{}': expected an intact store; got a damaged one (it cannot be "
          "read in a time that its size explains)",
          name));
    // Our own statements are right: it is the file that they do not fit.
    case SQLITE_ERROR:
    case SQLITE_CORRUPT:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_SCHEMA:
    case SQLITE_TOOBIG:
      throw base::InvalidInput(fmt::format(
          "'{}': expected an intact store; got a damaged one ({})",
          name,
          first_line(sqlite3_errmsg(handle_))));
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
          handle_ == nullptr ? sqlite3_errstr(code)
                             : first_line(sqlite3_errmsg(handle_))));
  }
}

std::unique_ptr<Database> open_sqlite(const fs::path& path) {
  check_no_directory(path);
  auto database =
      std::make_unique<SqliteDatabase>(path, SqliteDatabase::Mode::kReadWrite);
  if (is_empty(*database)) {
    create_schema(*database);
  }
  check_is_ours(*database);
  migrate(*database);
  // FULL: a committed trial state survives a power cut.
  database->execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  return database;
}

std::unique_ptr<Database> read_sqlite(const fs::path& path) {
  base::check(fs::exists(path), "'{}': no such file", path.string());
  check_no_directory(path);
  auto database =
      std::make_unique<SqliteDatabase>(path, SqliteDatabase::Mode::kReadOnly);
  check_is_ours(*database);
  return database;
}

}  // namespace einforge::store::internal
