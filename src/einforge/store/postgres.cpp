#include "einforge/store/postgres.h"

#include "einforge/base/error.h"
#include "einforge/store/location.h"

#ifdef EINFORGE_POSTGRES

#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "einforge/base/text.h"
#include "einforge/store/schema.h"

namespace einforge::store::internal {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration;

// How long a server may say nothing, be away after a connection was lost, and
// be away before there was one.
constexpr duration<double> kSilence{60};
constexpr duration<double> kAway{300};
constexpr duration<double> kFirst{5};

constexpr const char* kSchema = R"sql(
CREATE TABLE einforge_store (version INTEGER NOT NULL);
CREATE TABLE trials (
  sequence BIGSERIAL PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  config TEXT NOT NULL,
  structure TEXT NOT NULL,
  taxonomy TEXT NOT NULL,
  model TEXT NOT NULL,
  parameters BIGINT NOT NULL,
  flops DOUBLE PRECISION,
  learning_rate DOUBLE PRECISION,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  final_loss DOUBLE PRECISION,
  seconds DOUBLE PRECISION,
  worker TEXT NOT NULL,
  rung INTEGER NOT NULL,
  routers TEXT NOT NULL DEFAULT 'null',
  fence BIGINT NOT NULL DEFAULT 0,
  lease DOUBLE PRECISION,
  checksum BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX trials_by_status ON trials (status, sequence);
CREATE TABLE curves (
  trial BIGINT NOT NULL REFERENCES trials (sequence),
  step BIGINT NOT NULL,
  tokens BIGINT NOT NULL,
  flops DOUBLE PRECISION,
  seconds DOUBLE PRECISION,
  train_loss DOUBLE PRECISION,
  val_loss DOUBLE PRECISION,
  checksum BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (trial, step)
);
CREATE TABLE metadata (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL,
  checksum BIGINT NOT NULL DEFAULT 0
);
)sql";

// The first line of what libpq says, without its "ERROR:  ".
std::string first_line(std::string text) {
  text = text.substr(0, text.find('\n'));
  for (const char* mark : {"ERROR:  ", "FATAL:  "}) {
    const std::size_t at = text.find(mark);
    if (at != std::string::npos) {
      text.erase(at, std::string_view(mark).size());
    }
  }
  return base::trim(text);
}

// "?" and "?3" as "$1" and "$3".
std::string with_dollars(std::string_view sql) {
  std::string result;
  int next = 0;
  for (std::size_t i = 0; i < sql.size(); ++i) {
    if (sql[i] != '?') {
      result += sql[i];
    } else if (
        i + 1 < sql.size() &&
        std::isdigit(static_cast<unsigned char>(sql[i + 1])) != 0) {
      result += '$';
    } else {
      result += fmt::format("${}", ++next);
    }
  }
  return result;
}

// What may pass by itself: the server goes down or comes up, another
// transaction was in the way.
bool may_pass(std::string_view state) {
  constexpr std::array<std::string_view, 6> kStates = {
      "57P01", "57P02", "57P03", "40001", "40P01", "55P03"};
  return state.starts_with("08") ||
         std::ranges::find(kStates, state) != kStates.end();
}

using Values = std::vector<std::optional<std::string>>;

struct FreeResult {
  void operator()(PGresult* result) const { PQclear(result); }
};
using Result = std::unique_ptr<PGresult, FreeResult>;

struct Finish {
  void operator()(PGconn* connection) const { PQfinish(connection); }
};

class PostgresDatabase : public Database {
 public:
  PostgresDatabase(const std::string& location, bool read_only)
      : read_only_(read_only), name_(without_password(location)) {
    const std::size_t mark = name_.find('#');
    uri_ = name_.substr(0, mark);
    if (mark != std::string::npos) {
      search_ = name_.substr(mark + 1);
    }
    // PostgreSQL cuts longer names, and two searches would be one.
    constexpr std::size_t kLongest = 63;
    base::check(
        search_.size() <= kLongest,
        "the store '{}': expected a name of at most {} bytes for the search, "
        "which PostgreSQL's schemas have; got {}",
        name_,
        kLongest,
        search_.size());
    connect_first();
    if (search_.empty()) {
      search_ = only_search();
      prepare_session();
    }
    if (read_only) {
      check_version();
    } else {
      make_tables();
    }
  }

  std::unique_ptr<Statement> prepare(const std::string& sql) override;

  void execute(const std::string& sql) override { run(sql, {}); }

  void begin() override { execute("BEGIN"); }
  void commit() override { execute("COMMIT"); }
  void rollback() noexcept override {
    try {
      if (connection_ && PQstatus(connection_.get()) == CONNECTION_OK) {
        execute("ROLLBACK");
      }
    } catch (...) {
      connection_.reset();
    }
  }

  void recover(duration<double> waited) override {
    // Not all at once.
    std::uniform_real_distribution<double> spread(0.02, 0.1);
    std::this_thread::sleep_for(duration<double>(spread(random_)));
    const auto start = Clock::now();
    while (!connection_ || PQstatus(connection_.get()) != CONNECTION_OK) {
      try {
        connect();
        return;
      } catch (const TryAgain& error) {
        if (waited + (Clock::now() - start) > kAway) {
          throw base::IoError(error.what());
        }
        std::this_thread::sleep_for(duration<double>(0.5 + spread(random_)));
      }
    }
    if (waited > kAway) {
      throw base::IoError(
          fmt::format("the store '{}' is busy with other transactions", name_));
    }
  }

  const std::string& name() const override { return name_; }
  bool is_shared() const override { return true; }
  // The server has checksums of its own.
  bool has_checksums() const override { return false; }
  Columns columns() override {
    return {
        fmt::format("{}, 1", kTrialColumns),
        fmt::format("{}, 1", kCurveColumns),
        fmt::format("{}, 1", kMetadataColumns)};
  }
  std::string checksum(std::string_view /*values*/) const override {
    return "0";
  }
  std::string now() const override {
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)";
  }
  std::string locking(bool skip) const override {
    return skip ? " FOR UPDATE SKIP LOCKED" : " FOR UPDATE";
  }

  // The rows of one statement, or of several without parameters. Throws
  // TryAgain where that may help, base::IoError otherwise.
  Result run(const std::string& sql, const Values& values) {
    if (!connection_) {
      throw TryAgain(lost("it was closed"));
    }
    PGconn* const connection = connection_.get();
    std::vector<const char*> texts;
    for (const auto& value : values) {
      texts.push_back(value ? value->c_str() : nullptr);
    }
    const int sent = values.empty() ? PQsendQuery(connection, sql.c_str())
                                    : PQsendQueryParams(
                                          connection,
                                          sql.c_str(),
                                          static_cast<int>(texts.size()),
                                          nullptr,
                                          texts.data(),
                                          nullptr,
                                          nullptr,
                                          0);
    if (sent == 0) {
      fail(connection);
    }
    Result last;
    for (;;) {
      wait(connection);
      Result next(PQgetResult(connection));
      if (!next) {
        return last;
      }
      const ExecStatusType status = PQresultStatus(next.get());
      if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        const std::string message = PQresultErrorMessage(next.get());
        const char* code = PQresultErrorField(next.get(), PG_DIAG_SQLSTATE);
        const std::string state = code == nullptr ? "" : code;
        while (Result rest{PQgetResult(connection)}) {
        }
        if (PQstatus(connection) != CONNECTION_OK || may_pass(state)) {
          throw TryAgain(lost(message));
        }
        throw base::IoError(fmt::format(
            "cannot use the store '{}': {}", name_, first_line(message)));
      }
      last = std::move(next);
    }
  }

 private:
  std::string lost(const std::string& message) const {
    return fmt::format("lost the store '{}': {}", name_, first_line(message));
  }

  [[noreturn]] void fail(PGconn* connection) {
    const std::string message = PQerrorMessage(connection);
    connection_.reset();
    throw TryAgain(lost(message));
  }

  // Until the next result can be had without waiting.
  void wait(PGconn* connection) {
    const auto end = Clock::now() + kSilence;
    for (;;) {
      const int unsent = PQflush(connection);
      if (unsent < 0) {
        fail(connection);
      }
      if (unsent == 0 && PQisBusy(connection) == 0) {
        return;
      }
      pollfd file = {
          PQsocket(connection),
          static_cast<short>(POLLIN | (unsent > 0 ? POLLOUT : 0)),
          0};
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          end - Clock::now());
      if (left.count() <= 0) {
        connection_.reset();
        throw TryAgain(
            lost(fmt::format("no answer in {:g} s", kSilence.count())));
      }
      ::poll(&file, 1, static_cast<int>(left.count()));
      if (file.revents != 0 && PQconsumeInput(connection) == 0) {
        fail(connection);
      }
    }
  }

  void connect() {
    // What comes before the URI is for what it leaves open.
    constexpr std::array kKeys = {
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives_idle",
        "keepalives_interval",
        "fallback_application_name",
        "dbname",
        "client_encoding",
        static_cast<const char*>(nullptr)};
    const std::array kValues = {
        "10",
        "30000",
        "30",
        "10",
        "einforge",
        uri_.c_str(),
        "UTF8",
        static_cast<const char*>(nullptr)};
    connection_.reset(PQconnectdbParams(kKeys.data(), kValues.data(), 1));
    if (!connection_ || PQstatus(connection_.get()) != CONNECTION_OK) {
      const std::string message = first_line(
          connection_ ? PQerrorMessage(connection_.get()) : "no memory");
      connection_.reset();
      throw TryAgain(fmt::format("cannot connect to '{}': {}", name_, message));
    }
    // Notices of tables that exist already.
    PQsetNoticeProcessor(connection_.get(), [](void*, const char*) {}, nullptr);
    prepare_session();
  }

  void connect_first() {
    for (const auto start = Clock::now();;) {
      try {
        connect();
        return;
      } catch (const TryAgain& error) {
        if (Clock::now() - start > kFirst) {
          throw base::IoError(error.what());
        }
        std::this_thread::sleep_for(duration<double>(0.5));
      }
    }
  }

  void prepare_session() {
    if (!search_.empty()) {
      run("SELECT set_config('search_path', quote_ident($1), false)",
          {search_});
    }
    if (read_only_) {
      execute("SET default_transaction_read_only = on");
    }
  }

  // The schema of the database's only search.
  std::string only_search() {
    const auto select = prepare(
        "SELECT table_schema FROM information_schema.tables "
        "WHERE table_name = 'einforge_store' ORDER BY table_schema");
    std::vector<std::string> names;
    while (select->step()) {
      names.push_back(select->text(0));
    }
    base::check(
        !names.empty(), "'{}': expected an einforge store; got none", name_);
    base::check(
        names.size() == 1,
        "'{}': expected the name of a search after a '#', one of {}",
        name_,
        fmt::join(names, ", "));
    return names.front();
  }

  bool has_tables(const char* name) {
    const auto select = prepare(
        "SELECT count(*) FROM information_schema.tables "
        "WHERE table_schema = ? AND table_name = ?");
    select->bind(search_).bind(std::string(name));
    return select->step() && select->integer(0) > 0;
  }

  void check_version() {
    base::check(
        has_tables("einforge_store"),
        "'{}': expected an einforge store; got {}",
        name_,
        has_tables("trials") ? "another program's tables" : "none");
    const std::int64_t version =
        query_integer("SELECT version FROM einforge_store");
    base::check(
        version >= 4 && version <= kSchemaVersion,
        "'{}': expected a store of version {}; got version {}{}",
        name_,
        kSchemaVersion,
        version,
        version > kSchemaVersion ? "; a newer einforge wrote it" : "");
  }

  // One process at a time makes the tables, or will bring them up to date.
  void make_tables() {
    for (const auto start = Clock::now();;) {
      try {
        Transaction transaction(*this);
        run("SELECT pg_advisory_xact_lock(hashtext('einforge ' || $1))",
            {search_});
        // One that is there needs no right to make another.
        const auto made =
            prepare("SELECT count(*) FROM pg_namespace WHERE nspname = ?");
        made->bind(search_);
        made->step();
        if (made->integer(0) == 0) {
          run(fmt::format("CREATE SCHEMA IF NOT EXISTS {}", quoted(search_)),
              {});
        }
        if (!has_tables("einforge_store") && !has_tables("trials")) {
          execute(kSchema);
          execute(fmt::format(
              "INSERT INTO einforge_store VALUES ({})", kSchemaVersion));
        }
        check_version();
        transaction.commit();
        return;
      } catch (const TryAgain&) {
        recover(Clock::now() - start);
      }
    }
  }

  std::string quoted(const std::string& name) {
    const auto select = prepare("SELECT quote_ident(?)");
    select->bind(name);
    select->step();
    return select->text(0);
  }

  bool read_only_;
  std::string name_;
  std::string uri_;
  std::string search_;
  std::unique_ptr<PGconn, Finish> connection_;
  std::minstd_rand random_{std::random_device{}()};
};

class PostgresStatement : public Statement {
 public:
  PostgresStatement(PostgresDatabase& database, const std::string& sql)
      : database_(database), sql_(with_dollars(sql)) {}

  Statement& bind(const std::string& value) override {
    // The server takes UTF-8 alone, without zeros.
    const bool plain =
        base::is_utf8(value) && value.find('\0') == std::string::npos;
    values_.emplace_back(plain ? value : base::printable(value, true));
    return *this;
  }
  Statement& bind(std::int64_t value) override {
    values_.emplace_back(std::to_string(value));
    return *this;
  }
  Statement& bind(double value) override {
    values_.push_back(
        std::isnan(value) ? std::nullopt
                          : std::optional(fmt::format("{}", value)));
    return *this;
  }

  bool step() override {
    if (!result_) {
      result_ = database_.run(sql_, values_);
      row_ = -1;
    }
    return ++row_ < PQntuples(result_.get());
  }

  int run() override {
    const Result result = database_.run(sql_, std::exchange(values_, {}));
    result_.reset();
    return std::atoi(PQcmdTuples(result.get()));
  }

  std::string text(int column) const override {
    return {
        PQgetvalue(result_.get(), row_, column),
        static_cast<std::size_t>(PQgetlength(result_.get(), row_, column))};
  }
  std::int64_t integer(int column) const override {
    return std::strtoll(PQgetvalue(result_.get(), row_, column), nullptr, 10);
  }
  double real(int column) const override {
    return PQgetisnull(result_.get(), row_, column) == 1
               ? std::numeric_limits<double>::quiet_NaN()
               : std::strtod(PQgetvalue(result_.get(), row_, column), nullptr);
  }

 private:
  PostgresDatabase& database_;
  std::string sql_;
  Values values_;
  Result result_;
  int row_ = -1;
};

std::unique_ptr<Statement> PostgresDatabase::prepare(const std::string& sql) {
  return std::make_unique<PostgresStatement>(*this, sql);
}

}  // namespace

std::unique_ptr<Database> open_postgres(const std::string& location) {
  base::check(
      location.find('#') != std::string::npos,
      "'{}': expected the name of a search after a '#'",
      without_password(location));
  return std::make_unique<PostgresDatabase>(location, /*read_only=*/false);
}

std::unique_ptr<Database> read_postgres(const std::string& location) {
  return std::make_unique<PostgresDatabase>(location, /*read_only=*/true);
}

}  // namespace einforge::store::internal

#else

namespace einforge::store::internal {

std::unique_ptr<Database> open_postgres(const std::string& location) {
  return read_postgres(location);
}

std::unique_ptr<Database> read_postgres(const std::string& location) {
  throw base::InvalidInput(fmt::format(
      "'{}': this einforge was built without PostgreSQL (Debian's libpq-dev)",
      without_password(location)));
}

}  // namespace einforge::store::internal

#endif
