#include "einforge/store/store.h"

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/store/schema.h"
#include "einforge/store/sqlite.h"

namespace einforge::store {
namespace {

namespace fs = std::filesystem;
using internal::Columns;
using internal::Database;
using internal::Statement;
using internal::Transaction;

constexpr std::array kStatuses = {
    Status::kQueued,
    Status::kRunning,
    Status::kDone,
    Status::kFailed,
    Status::kDiverged,
    Status::kPruned};

base::Json parse_json(const Database& database, const std::string& text) {
  return base::parse_json(text, database.path().string());
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

// The current row's last column says whether its checksum is right.
void check_row(const Database& database, const Statement& row, int last) {
  base::check(
      row.integer(last) == 1,
      "'{}': expected an intact store; got a checksum mismatch in its row '{}'",
      database.path().string(),
      row.text(0));
}

// The current row of a query for Columns::trials.
Trial read_trial(const Database& database, const Statement& row) {
  constexpr int kChecksum = 15;
  check_row(database, row, kChecksum);
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
  trial.rung = static_cast<int>(std::clamp<std::int64_t>(
      row.integer(13), 0, std::numeric_limits<int>::max()));
  trial.routers = parse_json(database, row.text(14));
  return trial;
}

// Everything but the id, in the order of the table.
void bind_fields(Statement& statement, const Trial& trial) {
  statement.bind(base::dump_json(trial.config))
      .bind(trial.structure)
      .bind(base::dump_json(trial.taxonomy))
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
      .bind(base::dump_json(trial.routers));
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

  std::optional<Trial> find(const std::string& id) {
    Statement select(
        database,
        fmt::format("SELECT {} FROM trials WHERE id = ?", columns.trials)
            .c_str());
    if (!select.bind(id).step()) {
      return std::nullopt;
    }
    return read_trial(database, select);
  }

  // Within a transaction.
  void update(const Trial& trial) {
    const std::int64_t sequence = sequence_of(trial.id);
    Statement statement(
        database,
        "UPDATE trials SET config = ?, structure = ?, taxonomy = ?, "
        "model = ?, parameters = ?, flops = ?, learning_rate = ?, status = ?, "
        "reason = ?, final_loss = ?, seconds = ?, worker = ?, rung = ?, "
        "routers = ? WHERE sequence = ?");
    bind_fields(statement, trial);
    statement.bind(sequence).run();
    update_checksum(sequence);
  }

  // Of a row whose other columns have just been written.
  void update_checksum(std::int64_t sequence) {
    Statement(
        database,
        fmt::format(
            "UPDATE trials SET checksum = {} WHERE sequence = ?",
            internal::trial_checksum())
            .c_str())
        .bind(sequence)
        .run();
  }

  Database database;
  Columns columns;
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
  if (internal::is_empty(database)) {
    internal::create_schema(database);
  }
  internal::check_is_ours(database);
  internal::migrate(database);
  impl->columns = internal::columns_of(database);
  // FULL: a committed trial state survives a power cut.
  database.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  return Store(std::move(impl));
}

Store Store::open_read_only(const fs::path& path) {
  base::check(fs::exists(path), "'{}': no such file", path.string());
  check_no_directory(path);
  auto impl = std::make_unique<Impl>(path, Database::Mode::kReadOnly);
  internal::check_is_ours(impl->database);
  impl->columns = internal::columns_of(impl->database);
  return Store(std::move(impl));
}

bool Store::add(const Trial& trial) {
  return add(std::span(&trial, 1)) == 1;
}

int Store::add(std::span<const Trial> trials) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  Statement insert(
      impl_->database,
      "INSERT INTO trials (id, config, structure, taxonomy, model, parameters, "
      "flops, learning_rate, status, reason, final_loss, seconds, worker, "
      "rung, routers) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
      "ON CONFLICT (id) DO NOTHING");
  int added = 0;
  for (const Trial& trial : trials) {
    bind_fields(insert.bind(trial.id), trial);
    insert.run();
    if (impl_->database.changes() == 1) {
      ++added;
      impl_->update_checksum(impl_->sequence_of(trial.id));
    }
  }
  transaction.commit();
  return added;
}

std::optional<Trial> Store::claim(
    const std::string& id, const std::string& worker) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  std::optional<Trial> trial = impl_->find(id);
  if (!trial || trial->status != Status::kQueued) {
    return std::nullopt;
  }
  trial->status = Status::kRunning;
  trial->worker = worker;
  impl_->update(*trial);
  transaction.commit();
  return trial;
}

std::vector<std::string> Store::reclaim(
    const std::function<bool(const std::string&)>& is_alive) {
  const std::scoped_lock lock(impl_->mutex);
  Database& database = impl_->database;
  {
    // Most of the time there is nothing to do, and no need to write.
    Statement running(
        database, "SELECT 1 FROM trials WHERE status = 'running' LIMIT 1");
    if (!running.step()) {
      return {};
    }
  }
  Transaction transaction(database);
  std::vector<Trial> orphans;
  {
    Statement running(
        database,
        fmt::format(
            "SELECT {} FROM trials WHERE status = 'running'",
            impl_->columns.trials)
            .c_str());
    while (running.step()) {
      Trial trial = read_trial(database, running);
      if (!is_alive(trial.worker)) {
        orphans.push_back(std::move(trial));
      }
    }
  }
  std::vector<std::string> ids;
  for (Trial& trial : orphans) {
    trial.status = Status::kQueued;
    trial.worker.clear();
    impl_->update(trial);
    ids.push_back(trial.id);
  }
  transaction.commit();
  return ids;
}

void Store::update(const Trial& trial) {
  update(std::span(&trial, 1));
}

void Store::update(std::span<const Trial> trials) {
  if (trials.empty()) {
    return;
  }
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  for (const Trial& trial : trials) {
    impl_->update(trial);
  }
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
      "train_loss, val_loss, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, "
      "einforge_checksum(?1, ?2, ?3, ?4, ?5, ?6, ?7))");
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
  return impl_->find(id);
}

std::vector<Trial> Store::trials() const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database,
      fmt::format(
          "SELECT {} FROM trials ORDER BY sequence", impl_->columns.trials)
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
      fmt::format(
          "SELECT {} FROM curves WHERE trial = ? ORDER BY step",
          impl_->columns.curves)
          .c_str());
  select.bind(impl_->sequence_of(trial_id));
  std::vector<CurvePoint> points;
  while (select.step()) {
    constexpr int kChecksum = 7;
    check_row(impl_->database, select, kChecksum);
    points.push_back(
        {select.integer(1),
         select.integer(2),
         select.real(3),
         select.real(4),
         select.real(5),
         select.real(6)});
  }
  return points;
}

void Store::set_metadata(const std::string& key, const base::Json& value) {
  const std::scoped_lock lock(impl_->mutex);
  Transaction transaction(impl_->database);
  Statement(
      impl_->database,
      "INSERT OR REPLACE INTO metadata (key, value, checksum) "
      "VALUES (?1, ?2, einforge_checksum(?1, ?2))")
      .bind(key)
      .bind(base::dump_json(value))
      .run();
  transaction.commit();
}

base::Json Store::metadata() const {
  const std::scoped_lock lock(impl_->mutex);
  Statement select(
      impl_->database,
      fmt::format(
          "SELECT {} FROM metadata ORDER BY key", impl_->columns.metadata)
          .c_str());
  base::Json metadata = base::Json::object();
  while (select.step()) {
    check_row(impl_->database, select, 2);
    base::add_member(
        metadata, select.text(0), parse_json(impl_->database, select.text(1)));
  }
  return metadata;
}

}  // namespace einforge::store
