#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "einforge/base/json.h"

namespace einforge::store {

enum class Status { kQueued, kRunning, kDone, kFailed, kDiverged, kPruned };

std::string to_string(Status status);

// One point of a training curve.
struct CurvePoint {
  std::int64_t step = 0;
  std::int64_t tokens = 0;  // or samples, for regression
  double flops = 0;         // spent so far, forward + backward
  double seconds = 0;       // training time so far, without evaluation
  double train_loss = 0;    // mean since the last point; NaN when unknown
  double val_loss = 0;      // NaN when not evaluated at this point
};

// One training run of a search. `id` is the hash of its config, so that the
// same trial is never run twice.
struct Trial {
  std::string id;
  base::Json config;      // the exact TrainConfig
  std::string structure;  // "btt:0.25"
  base::Json taxonomy;    // {"omega":, "psi":, "nu":} as realised
  std::string model;      // "gpt d64 L2", to group sizes in the report
  std::int64_t parameters = 0;
  double flops = 0;  // spent by the whole trial
  double learning_rate = 0;
  Status status = Status::kQueued;
  std::string reason;     // why it failed, diverged or was pruned
  double final_loss = 0;  // validation; NaN until known
  double seconds = 0;
  std::string worker;  // who runs it: host:pid
  int rung = 0;        // successive halving: rungs passed
  // What the routers of mixtures of experts last did, and warnings about them:
  // {"step", "layers", "warnings"} (docs/moe.md); null without.
  base::Json routers;
  // How often it was claimed. A worker whose number is older has lost it.
  std::int64_t fence = 0;
};

// Who runs a trial.
struct Claim {
  std::string worker;
  // Until the worker must have renewed it, on the clock of the store; negative
  // when it has not. NaN without a lease.
  double seconds_left = 0;
};

// The trials of a search, in one SQLite file (write-ahead log) or in a schema
// of a PostgreSQL database, safe under several processes and under kill -9 at
// any moment. All writes are transactions. In a file every row has a checksum;
// one that is damaged or made to do harm is refused: whatever reads it ends in
// a time that its size explains. A database may be used from several machines;
// when the connection is lost, calls wait for it and go on.
class Store {
 public:
  // A path, or "postgresql://HOST/DATABASE#SEARCH", SEARCH being the schema;
  // libpq's URIs, passwords in them or where libpq looks for them.
  // Opens or makes the store, and brings one of an older version up to date.
  // Throws base::InvalidInput when it is no einforge store or was written by a
  // newer version, base::IoError when it cannot be written.
  static Store open(const std::string& location);
  // As open, but throws when there is none and writes nothing, but that the
  // last to close a file folds the log of a killed writer into it. Leaves no
  // file behind. Without a SEARCH the database must have one alone.
  static Store open_read_only(const std::string& location);

  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;
  ~Store();

  // Adds the trial unless its id is known; returns whether it did.
  bool add(const Trial& trial);
  // Many in one transaction; returns how many were new.
  int add(std::span<const Trial> trials);
  // Marks a queued trial as running by `worker`, with `lease_seconds` with a
  // lease; nothing when it is not queued any more: of two workers that claim it
  // only one gets it.
  std::optional<Trial> claim(
      const std::string& id,
      const std::string& worker,
      double lease_seconds = std::numeric_limits<double>::quiet_NaN());
  // Puts off the end of a lease to `seconds` from now. False when the trial is
  // not this claim's any more.
  bool renew(const Trial& trial, double seconds);
  // Puts running trials back in the queue whose claim is over; returns their
  // ids.
  std::vector<std::string> reclaim(
      const std::function<bool(const Claim&)>& is_over);
  // Overwrites everything but the curve, unless the trial has been claimed
  // again since it was read; false then.
  bool update(const Trial& trial);
  // In one transaction; returns how many were written.
  int update(std::span<const Trial> trials);
  // Adds points; a point of a step already there replaces it, so that a
  // resumed trial may write its last points again. Nothing, and false, when the
  // trial has been claimed again.
  bool append_curve(const Trial& trial, std::span<const CurvePoint> points);
  // For trials that nobody else works on.
  void append_curve(
      const std::string& trial_id, const std::vector<CurvePoint>& points);

  std::optional<Trial> find(const std::string& id) const;
  std::vector<Trial> trials() const;  // in the order added
  // What changes when somebody works on a trial.
  struct State {
    std::string id;
    Status status = Status::kQueued;
    int rung = 0;
    std::int64_t fence = 0;
  };
  std::vector<State> states() const;  // in the order added
  std::vector<CurvePoint> curve(const std::string& trial_id) const;

  // Free-form facts about the search: hardware, versions, command, config.
  void set_metadata(const std::string& key, const base::Json& value);
  // Only where there is no such key yet; returns what then is there.
  base::Json set_metadata_once(const std::string& key, const base::Json& value);
  base::Json metadata() const;

  // Other machines may use it too.
  bool is_shared() const;

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace einforge::store
