#include "einforge/store/store.h"

#include <array>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/store/sqlite.h"

namespace einforge::store {
namespace {

namespace fs = std::filesystem;
using internal::Database;
using internal::Statement;
using internal::Transaction;

// "eifg", in the header of the file: tells our stores from other databases.
constexpr std::int64_t kApplicationId = 0x65696667;
// Raise it with every change of the schema, and teach migrate() the step.
constexpr std::int64_t kSchemaVersion = 2;

// ANY columns hold doubles exactly; a REAL column would lose the sign of -0.
constexpr const char* kSchema = R"sql(
CREATE TABLE trials (
  sequence INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  config TEXT NOT NULL,
  structure TEXT NOT NULL,
  taxonomy TEXT NOT NULL,
  model TEXT NOT NULL,
  parameters INTEGER NOT NULL,
  flops ANY,
  learning_rate ANY,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  final_loss ANY,
  seconds ANY,
  worker TEXT NOT NULL,
  rung INTEGER NOT NULL,
  routers TEXT NOT NULL DEFAULT 'null'
) STRICT;
CREATE INDEX trials_by_status ON trials (status, sequence);
CREATE TABLE curves (
  trial INTEGER NOT NULL REFERENCES trials (sequence),
  step INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  flops ANY,
  seconds ANY,
  train_loss ANY,
  val_loss ANY,
  PRIMARY KEY (trial, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE metadata (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
)sql";

constexpr const char* kTrialColumns =
    "id, config, structure, taxonomy, model, parameters, flops, learning_rate, "
    "status, reason, final_loss, seconds, worker, rung, routers";

// The same of a store of version 1, which has no routers.
constexpr const char* kTrialColumnsBefore2 =
    "id, config, structure, taxonomy, model, parameters, flops, learning_rate, "
    "status, reason, final_loss, seconds, worker, rung, 'null'";

constexpr std::array kStatuses = {
    Status::kQueued,
    Status::kRunning,
    Status::kDone,
    Status::kFailed,
    Status::kDiverged,
    Status::kPruned};

// Bytes that are no UTF-8 (a file name can hold any) become U+FFFD: losing a
// character beats losing the trial.
std::string dump(const base::Json& json) {
  return json.dump(-1, ' ', false, base::Json::error_handler_t::replace);
}

base::Json parse_json(const Database& database, const std::string& text) {
  base::Json json = base::Json::parse(text, nullptr, false);
  base::check(
      !json.is_discarded(),
      "'{}': expected an intact store; got broken JSON in it",
      database.path().string());
  return json;
}

Status parse_status(const Database& database, const std::string& text) {
  for (const Status status : kStatuses) {
    if (to_string(status) == text) {
      return status;
    }
  }
  throw base::InvalidInput(fmt::format(
      "'{}': expected an intact store; got the unknown status '{}'",
      database.path().string(),
      text));
}

// The current row of a query for kTrialColumns.
Trial read_trial(const Database& database, const Statement& row) {
  Trial trial;
  trial.id = row.text(0);
  trial.config = parse_json(database, row.text(1));
  trial.structure = row.text(2);
  trial.taxonomy = parse_json(database, row.text(3));
  trial.model = row.text(4);
  trial.parameters = row.integer(5);
  trial.flops = row.real(6);
  trial.learning_rate = row.real(7);
  trial.status = parse_status(database, row.text(8));
  trial.reason = row.text(9);
  trial.final_loss = row.real(10);
  trial.seconds = row.real(11);
  trial.worker = row.text(12);
  trial.rung = static_cast<int>(row.integer(13));
  trial.routers = parse_json(database, row.text(14));
  return trial;
}

// Everything but the id, in the order of kTrialColumns.
void bind_fields(Statement& statement, const Trial& trial) {
  statement.bind(dump(trial.config))
      .bind(trial.structure)
      .bind(dump(trial.taxonomy))
      .bind(trial.model)
      .bind(trial.parameters)
      .bind(trial.flops)
      .bind(trial.learning_rate)
      .bind(to_string(trial.status))
      .bind(trial.reason)
      .bind(trial.final_loss)
      .bind(trial.seconds)
      .bind(trial.worker)
      .bind(trial.rung)
      .bind(dump(trial.routers));
}

bool is_empty(Database& database) {
  return database.query_integer("SELECT count(*) FROM sqlite_schema") == 0 &&
         database.query_integer("PRAGMA application_id") == 0;
}

std::int64_t version_of(Database& database) {
  return database.query_integer("PRAGMA user_version");
}

void check_is_ours(Database& database) {
  const std::string name = database.path().string();
  base::check(
      database.query_integer("PRAGMA application_id") == kApplicationId,
      "'{}': expected an einforge store; got {}",
      name,
      is_empty(database) ? "an empty file" : "another program's database");
  const std::int64_t version = version_of(database);
  base::check(
      version >= 1 && version <= kSchemaVersion,
      "'{}': expected a store of version {} or older; got version {}; a newer "
      "einforge wrote it",
      name,
      kSchemaVersion,
      version);
  const std::string state = database.query_text("PRAGMA quick_check(1)");
  base::check(
      state == "ok",
      "'{}': expected an intact store; got a damaged one ({})",
      name,
      state.substr(0, state.find('\n')));
}

// Changing the journal mode needs the file alone and does not wait for it, so
// that two processes that open a new store at once would fail each other.
void use_write_ahead_log(Database& database) {
  for (int attempt = 0;; ++attempt) {
    try {
      database.execute("PRAGMA journal_mode = WAL");
      return;
    } catch (const base::IoError&) {
      if (attempt == 50) {
        throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
}

void create_schema(Database& database) {
  Transaction transaction(database);
  if (is_empty(database)) {  // nobody was faster
    database.execute(kSchema);
    database.execute(fmt::format(
                         "PRAGMA application_id = {}; PRAGMA user_version = {}",
                         kApplicationId,
                         kSchemaVersion)
                         .c_str());
  }
  transaction.commit();
}

void migrate(Database& database) {
  if (version_of(database) == kSchemaVersion) {
    return;
  }
  Transaction transaction(database);
  if (version_of(database) == 1) {  // nobody was faster
    database.execute(
        "ALTER TABLE trials ADD COLUMN routers TEXT NOT NULL DEFAULT 'null'; "
        "PRAGMA user_version = 2");
  }
  transaction.commit();
}

void check_no_directory(const fs::path& path) {
  base::check(
      !fs::is_directory(path),
      "'{}': expected a store; got a directory",
      path.string());
}

}  // namespace

std::string to_string(Status status) {
  switch (status) {
    case Status::kQueued:
      return "queued";
    case Status::kRunning:
      return "running";
    case Status::kDone:
      return "done";
    case Status::kFailed:
      return "failed";
    case Status::kDiverged:
      return "diverged";
    case Status::kPruned:
      return "pruned";
  }
  return "unknown";
}

struct Store::Impl {
  Impl(const fs::path& path, Database::Mode mode) : database(path, mode) {}

  std::int64_t sequence_of(const std::string& id) {
    Statement find(database, "SELECT sequence FROM trials WHERE id = ?");
    base::check(
        find.bind(id).step(),
        "'{}': expected a known trial; got '{}'",
        database.path().string(),
        id);
    return find.integer(0);
  }

  Database database;
  const char* trial_columns = kTrialColumns;
  // A transaction belongs to a connection: threads take turns.
  std::mutex mutex;
};

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;
Store::~Store() = default;

Store Store::open(const fs::path& path) {
  check_no_directory(path);
  auto impl = std::make_unique<Impl>(path, Database::Mode::kReadWrite);
  Database& database = impl->database;
  if (is_empty(database)) {
    use_write_ahead_log(database);
    create_schema(database);
  }
  check_is_ours(database);
  migrate(database);
  // FULL: a committed trial state survives a power cut.
  database.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  return Store(std::move(impl));
}

Store Store::open_read_only(const fs::path& path) {
  base::check(fs::exists(path), "'{}': no such file", path.string());
  check_no_directory(path);
  auto impl = std::make_unique<Impl>(path, Database::Mode::kReadOnly);
  check_is_ours(impl->database);
  if (version_of(impl->database) == 1) {
    impl->trial_columns = kTrialColumnsBefore2;
  }
  return Store(std::move(impl));
}

bool Store::add(const Trial& trial) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  Statement insert(
      impl_->database,
      fmt::format(
          "INSERT INTO trials ({}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
          "ON CONFLICT (id) DO NOTHING",
          kTrialColumns)
          .c_str());
  Trial queued = trial;
  queued.status = Status::kQueued;
  bind_fields(insert.bind(queued.id), queued);
  insert.run();
  const bool added = impl_->database.changes() == 1;
  transaction.commit();
  return added;
}

std::optional<Trial> Store::claim(const std::string& worker) {
  const std::scoped_lock lock(impl_->mutex);
  Database& database = impl_->database;
  Transaction transaction(database);
  std::optional<Trial> claimed;
  {
    Statement first(
        database,
        fmt::format(
            "SELECT {} FROM trials WHERE status = 'queued' "
            "ORDER BY sequence LIMIT 1",
            kTrialColumns)
            .c_str());
    if (first.step()) {
      claimed = read_trial(database, first);
    }
  }
  if (claimed) {
    claimed->status = Status::kRunning;
    claimed->worker = worker;
    Statement(
        database,
        "UPDATE trials SET status = 'running', worker = ? WHERE id = ?")
        .bind(worker)
        .bind(claimed->id)
        .run();
  }
  transaction.commit();
  return claimed;
}

int Store::reclaim(const std::function<bool(const std::string&)>& is_alive) {
  const std::scoped_lock lock(impl_->mutex);
  Database& database = impl_->database;
  Transaction transaction(database);
  std::vector<std::int64_t> orphans;
  {
    Statement running(
        database,
        "SELECT sequence, worker FROM trials WHERE status = 'running'");
    while (running.step()) {
      if (!is_alive(running.text(1))) {
        orphans.push_back(running.integer(0));
      }
    }
  }
  Statement requeue(
      database,
      "UPDATE trials SET status = 'queued', worker = '' WHERE sequence = ?");
  for (const std::int64_t sequence : orphans) {
    requeue.bind(sequence).run();
  }
  transaction.commit();
  return static_cast<int>(orphans.size());
}

void Store::update(const Trial& trial) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  const std::int64_t sequence = impl_->sequence_of(trial.id);
  Statement update(
      impl_->database,
      "UPDATE trials SET config = ?, structure = ?, taxonomy = ?, model = ?, "
      "parameters = ?, flops = ?, learning_rate = ?, status = ?, reason = ?, "
      "final_loss = ?, seconds = ?, worker = ?, rung = ?, routers = ? "
      "WHERE sequence = ?");
  bind_fields(update, trial);
  update.bind(sequence).run();
  transaction.commit();
}

void Store::append_curve(
    const std::string& trial_id, const std::vector<CurvePoint>& points) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  const std::int64_t sequence = impl_->sequence_of(trial_id);
  Statement insert(
      impl_->database,
      "INSERT OR REPLACE INTO curves (trial, step, tokens, flops, seconds, "
      "train_loss, val_loss) VALUES (?,?,?,?,?,?,?)");
  for (const CurvePoint& point : points) {
    insert.bind(sequence)
        .bind(point.step)
        .bind(point.tokens)
        .bind(point.flops)
        .bind(point.seconds)
        .bind(point.train_loss)
        .bind(point.val_loss)
        .run();
  }
  transaction.commit();
}

std::optional<Trial> Store::find(const std::string& id) const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database,
      fmt::format("SELECT {} FROM trials WHERE id = ?", impl_->trial_columns)
          .c_str());
  if (!select.bind(id).step()) {
    return std::nullopt;
  }
  return read_trial(impl_->database, select);
}

std::vector<Trial> Store::trials() const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database,
      fmt::format(
          "SELECT {} FROM trials ORDER BY sequence", impl_->trial_columns)
          .c_str());
  std::vector<Trial> trials;
  while (select.step()) {
    trials.push_back(read_trial(impl_->database, select));
  }
  return trials;
}

std::vector<CurvePoint> Store::curve(const std::string& trial_id) const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database,
      "SELECT step, tokens, flops, seconds, train_loss, val_loss FROM curves "
      "WHERE trial = ? ORDER BY step");
  select.bind(impl_->sequence_of(trial_id));
  std::vector<CurvePoint> points;
  while (select.step()) {
    points.push_back(
        {select.integer(0),
         select.integer(1),
         select.real(2),
         select.real(3),
         select.real(4),
         select.real(5)});
  }
  return points;
}

void Store::set_metadata(const std::string& key, const base::Json& value) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  Statement(
      impl_->database,
      "INSERT OR REPLACE INTO metadata (key, value) VALUES (?, ?)")
      .bind(key)
      .bind(dump(value))
      .run();
  transaction.commit();
}

base::Json Store::metadata() const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database, "SELECT key, value FROM metadata ORDER BY key");
  base::Json metadata = base::Json::object();
  while (select.step()) {
    metadata[select.text(0)] = parse_json(impl_->database, select.text(1));
  }
  return metadata;
}

}  // namespace einforge::store
