#include "einforge/store/store.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <mutex>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/store/database.h"
#include "einforge/store/location.h"
#include "einforge/store/postgres.h"
#include "einforge/store/schema.h"
#include "einforge/store/sqlite.h"

namespace einforge::store {
namespace {

using internal::Columns;
using internal::Database;
using internal::Statement;
using internal::Transaction;
using Clock = std::chrono::steady_clock;

constexpr std::array kStatuses = {
    Status::kQueued,
    Status::kRunning,
    Status::kDone,
    Status::kFailed,
    Status::kDiverged,
    Status::kPruned};

base::Json parse_json(const Database& database, const std::string& text) {
  return base::parse_json(text, database.name());
}

Status parse_status(const Database& database, const std::string& text) {
  for (const Status status : kStatuses) {
    if (to_string(status) == text) {
      return status;
    }
  }
  throw base::InvalidInput(fmt::format(
      "'{}': expected an intact store; got the unknown status '{}'",
      database.name(),
      text));
}

// The current row's last column says whether its checksum is right.
void check_row(const Database& database, const Statement& row, int last) {
  base::check(
      row.integer(last) == 1,
      "'{}': expected an intact store; got a checksum mismatch in its row '{}'",
      database.name(),
      row.text(0));
}

// The current row of a query for Columns::trials.
Trial read_trial(const Database& database, const Statement& row) {
  constexpr int kChecksum = 17;
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
  trial.fence = row.integer(15);
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
  explicit Impl(std::unique_ptr<Database> opened)
      : database(std::move(opened)), columns(database->columns()) {}

  // What `body` returns, which reads; it is called again when the connection
  // was lost or another transaction was in the way.
  template <typename Body>
  auto read(const Body& body) {
    const std::scoped_lock lock(mutex);
    std::optional<Clock::time_point> since;
    for (;;) {
      try {
        return body();
      } catch (const internal::TryAgain&) {
        since = since.value_or(Clock::now());
        database->recover(Clock::now() - *since);
      }
    }
  }

  // The same with writes. They are written so that doing them twice does what
  // doing them once does: a lost connection may hide that they were done.
  template <typename Body>
  auto write(const Body& body) {
    return read([&] {
      Transaction transaction(*database);
      auto result = body();
      transaction.commit();
      return result;
    });
  }

  std::unique_ptr<Statement> prepare(const std::string& sql) {
    return database->prepare(sql);
  }

  std::int64_t sequence_of(const std::string& id) {
    const auto find = prepare("SELECT sequence FROM trials WHERE id = ?");
    find->bind(id);
    base::check(
        find->step(),
        "'{}': expected a known trial; got '{}'",
        database->name(),
        id);
    return find->integer(0);
  }

  std::optional<Trial> find(const std::string& id, const std::string& locking) {
    const auto select = prepare(fmt::format(
        "SELECT {} FROM trials WHERE id = ?{}", columns.trials, locking));
    select->bind(id);
    if (!select->step()) {
      return std::nullopt;
    }
    return read_trial(*database, *select);
  }

  // Within a transaction.
  bool update(const Trial& trial) {
    const auto statement = prepare(
        "UPDATE trials SET config = ?, structure = ?, taxonomy = ?, "
        "model = ?, parameters = ?, flops = ?, learning_rate = ?, status = ?, "
        "reason = ?, final_loss = ?, seconds = ?, worker = ?, rung = ?, "
        "routers = ? WHERE id = ? AND fence = ?");
    bind_fields(*statement, trial);
    statement->bind(trial.id).bind(trial.fence);
    if (statement->run() == 0) {
      sequence_of(trial.id);  // is known
      return false;
    }
    update_checksum(trial.id);
    return true;
  }

  // Of a row whose other columns have just been written.
  void update_checksum(const std::string& id) {
    if (!database->has_checksums()) {
      return;
    }
    const auto statement = prepare(fmt::format(
        "UPDATE trials SET checksum = {} WHERE id = ?",
        database->checksum(internal::kTrialColumns)));
    statement->bind(id);
    statement->run();
  }

  void append_curve(std::int64_t sequence, std::span<const CurvePoint> points) {
    const auto insert = prepare(fmt::format(
        "INSERT INTO curves ({}, checksum) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {}) "
        "ON CONFLICT (trial, step) DO UPDATE SET tokens = excluded.tokens, "
        "flops = excluded.flops, seconds = excluded.seconds, "
        "train_loss = excluded.train_loss, val_loss = excluded.val_loss, "
        "checksum = excluded.checksum",
        internal::kCurveColumns,
        database->checksum("?1, ?2, ?3, ?4, ?5, ?6, ?7")));
    for (const CurvePoint& point : points) {
      insert->bind(sequence)
          .bind(point.step)
          .bind(point.tokens)
          .bind(point.flops)
          .bind(point.seconds)
          .bind(point.train_loss)
          .bind(point.val_loss);
      insert->run();
    }
  }

  void set_metadata(
      const std::string& key, const base::Json& value, bool replace) {
    const auto insert = prepare(fmt::format(
        "INSERT INTO metadata (key, value, checksum) VALUES (?1, ?2, {}) "
        "ON CONFLICT (key) DO {}",
        database->checksum("?1, ?2"),
        replace ? "UPDATE SET value = excluded.value, "
                  "checksum = excluded.checksum"
                : "NOTHING"));
    insert->bind(key).bind(base::dump_json(value));
    insert->run();
  }

  base::Json metadata() {
    const auto select = prepare(
        fmt::format("SELECT {} FROM metadata ORDER BY key", columns.metadata));
    base::Json metadata = base::Json::object();
    while (select->step()) {
      check_row(*database, *select, 2);
      base::add_member(
          metadata, select->text(0), parse_json(*database, select->text(1)));
    }
    return metadata;
  }

  std::unique_ptr<Database> database;
  Columns columns;
  // A transaction belongs to a connection: threads take turns.
  std::mutex mutex;
};

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;
Store::~Store() = default;

Store Store::open(const std::string& location) {
  return Store(std::make_unique<Impl>(
      is_database_uri(location) ? internal::open_postgres(location)
                                : internal::open_sqlite(location)));
}

Store Store::open_read_only(const std::string& location) {
  return Store(std::make_unique<Impl>(
      is_database_uri(location) ? internal::read_postgres(location)
                                : internal::read_sqlite(location)));
}

bool Store::is_shared() const {
  return impl_->database->is_shared();
}

bool Store::add(const Trial& trial) {
  return add(std::span(&trial, 1)) == 1;
}

int Store::add(std::span<const Trial> trials) {
  if (trials.empty()) {
    return 0;
  }
  return impl_->write([&] {
    const auto insert = impl_->prepare(
        "INSERT INTO trials (id, config, structure, taxonomy, model, "
        "parameters, flops, learning_rate, status, reason, final_loss, "
        "seconds, worker, rung, routers) "
        "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING");
    int added = 0;
    for (const Trial& trial : trials) {
      insert->bind(trial.id);
      bind_fields(*insert, trial);
      if (insert->run() == 1) {
        ++added;
        impl_->update_checksum(trial.id);
      }
    }
    return added;
  });
}

std::optional<Trial> Store::claim(
    const std::string& id, const std::string& worker, double lease_seconds) {
  bool again = false;
  return impl_->write([&]() -> std::optional<Trial> {
    std::optional<Trial> trial =
        impl_->find(id, impl_->database->locking(/*skip=*/true));
    const bool retried = std::exchange(again, true);
    if (retried && trial && trial->status == Status::kRunning &&
        trial->worker == worker) {
      return trial;  // the claim before the connection was lost
    }
    if (!trial || trial->status != Status::kQueued) {
      return std::nullopt;
    }
    trial->status = Status::kRunning;
    trial->worker = worker;
    ++trial->fence;
    const auto statement = impl_->prepare(fmt::format(
        "UPDATE trials SET status = ?, worker = ?, fence = ?, "
        "lease = {} + CAST(? AS DOUBLE PRECISION) WHERE id = ?",
        impl_->database->now()));
    statement->bind(to_string(trial->status))
        .bind(worker)
        .bind(trial->fence)
        .bind(lease_seconds)
        .bind(id);
    statement->run();
    impl_->update_checksum(id);
    return trial;
  });
}

bool Store::renew(const Trial& trial, double seconds) {
  return impl_->write([&] {
    const auto statement = impl_->prepare(fmt::format(
        "UPDATE trials SET lease = {} + CAST(? AS DOUBLE PRECISION) "
        "WHERE id = ? AND fence = ? AND status = 'running'",
        impl_->database->now()));
    statement->bind(seconds).bind(trial.id).bind(trial.fence);
    const bool ours = statement->run() == 1;
    if (ours) {
      impl_->update_checksum(trial.id);
    }
    return ours;
  });
}

std::vector<std::string> Store::reclaim(
    const std::function<bool(const Claim&)>& is_over) {
  struct Running {
    std::string id;
    std::int64_t fence = 0;
    Claim claim;
  };
  const std::vector<Running> running = impl_->read([&] {
    const auto select = impl_->prepare(fmt::format(
        "SELECT id, fence, worker, lease - {} FROM trials "
        "WHERE status = 'running'",
        impl_->database->now()));
    std::vector<Running> rows;
    while (select->step()) {
      rows.push_back(
          {select->text(0),
           select->integer(1),
           {select->text(2), select->real(3)}});
    }
    return rows;
  });
  // Most of the time there is nothing to do, and no need to write.
  std::vector<Running> orphans;
  for (const Running& trial : running) {
    if (is_over(trial.claim)) {
      orphans.push_back(trial);
    }
  }
  if (orphans.empty()) {
    return {};
  }
  return impl_->write([&] {
    std::vector<std::string> ids;
    // Unless it was renewed or claimed in the meantime.
    const auto statement = impl_->prepare(fmt::format(
        "UPDATE trials SET status = 'queued', worker = '' WHERE id = ? AND "
        "fence = ? AND worker = ? AND status = 'running' AND "
        "(lease IS NULL OR ? OR lease < {})",
        impl_->database->now()));
    for (const Running& trial : orphans) {
      // An own worker that has died is not waited for.
      const bool dead = trial.claim.seconds_left > 0;
      statement->bind(trial.id)
          .bind(trial.fence)
          .bind(trial.claim.worker)
          .bind(dead);
      if (statement->run() == 1) {
        impl_->update_checksum(trial.id);
        ids.push_back(trial.id);
      }
    }
    return ids;
  });
}

bool Store::update(const Trial& trial) {
  return update(std::span(&trial, 1)) == 1;
}

int Store::update(std::span<const Trial> trials) {
  if (trials.empty()) {
    return 0;
  }
  return impl_->write([&] {
    return static_cast<int>(std::ranges::count_if(
        trials, [&](const Trial& trial) { return impl_->update(trial); }));
  });
}

bool Store::append_curve(
    const Trial& trial, std::span<const CurvePoint> points) {
  return impl_->write([&] {
    // Nobody claims it before this is written.
    const auto find = impl_->prepare(
        "SELECT sequence FROM trials WHERE id = ? AND fence = ?" +
        impl_->database->locking(/*skip=*/false));
    find->bind(trial.id).bind(trial.fence);
    if (!find->step()) {
      impl_->sequence_of(trial.id);  // is known
      return false;
    }
    impl_->append_curve(find->integer(0), points);
    return true;
  });
}

void Store::append_curve(
    const std::string& trial_id, const std::vector<CurvePoint>& points) {
  impl_->write([&] {
    impl_->append_curve(impl_->sequence_of(trial_id), points);
    return true;
  });
}

std::optional<Trial> Store::find(const std::string& id) const {
  return impl_->read([&] { return impl_->find(id, ""); });
}

std::vector<Trial> Store::trials() const {
  return impl_->read([&] {
    const auto select = impl_->prepare(fmt::format(
        "SELECT {} FROM trials ORDER BY sequence", impl_->columns.trials));
    std::vector<Trial> trials;
    while (select->step()) {
      trials.push_back(read_trial(*impl_->database, *select));
    }
    return trials;
  });
}

std::vector<Store::State> Store::states() const {
  return impl_->read([&] {
    const auto select = impl_->prepare(
        "SELECT id, status, rung, fence FROM trials ORDER BY sequence");
    std::vector<State> states;
    while (select->step()) {
      states.push_back(
          {select->text(0),
           parse_status(*impl_->database, select->text(1)),
           static_cast<int>(select->integer(2)),
           select->integer(3)});
    }
    return states;
  });
}

std::vector<CurvePoint> Store::curve(const std::string& trial_id) const {
  return impl_->read([&] {
    const auto select = impl_->prepare(fmt::format(
        "SELECT {} FROM curves WHERE trial = ? ORDER BY step",
        impl_->columns.curves));
    select->bind(impl_->sequence_of(trial_id));
    std::vector<CurvePoint> points;
    while (select->step()) {
      constexpr int kChecksum = 7;
      check_row(*impl_->database, *select, kChecksum);
      points.push_back(
          {select->integer(1),
           select->integer(2),
           select->real(3),
           select->real(4),
           select->real(5),
           select->real(6)});
    }
    return points;
  });
}

void Store::set_metadata(const std::string& key, const base::Json& value) {
  impl_->write([&] {
    impl_->set_metadata(key, value, /*replace=*/true);
    return true;
  });
}

base::Json Store::set_metadata_once(
    const std::string& key, const base::Json& value) {
  return impl_->write([&] {
    impl_->set_metadata(key, value, /*replace=*/false);
    return impl_->metadata().at(key);
  });
}

base::Json Store::metadata() const {
  return impl_->read([&] { return impl_->metadata(); });
}

}  // namespace einforge::store
