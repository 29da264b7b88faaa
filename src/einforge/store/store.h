#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
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
};

// Trials in SQLite (write-ahead log), safe under several processes and under
// kill -9 at any moment. All writes are transactions; every row has a checksum.
// A file that is damaged or made to do harm is refused: whatever reads it ends
// in a time that its size explains.
class Store {
 public:
  // Opens or makes the store, and brings one of an older version up to date.
  // Throws base::InvalidInput when the file is no einforge store or was written
  // by a newer version, base::IoError when it cannot be written.
  static Store open(const std::filesystem::path& path);
  // As open, but throws when the file does not exist and writes nothing, but
  // that the last to close a store folds the log of a killed writer into it.
  // Leaves no file behind.
  static Store open_read_only(const std::filesystem::path& path);

  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;
  ~Store();

  // Adds the trial unless its id is known; returns whether it did.
  bool add(const Trial& trial);
  // Many in one transaction; returns how many were new.
  int add(std::span<const Trial> trials);
  // Marks a queued trial as running by `worker`; nothing when it is not queued
  // any more: of two workers that claim it only one gets it.
  std::optional<Trial> claim(const std::string& id, const std::string& worker);
  // Puts running trials whose worker is not alive (`is_alive(worker)` false)
  // back in the queue; returns their ids.
  std::vector<std::string> reclaim(
      const std::function<bool(const std::string&)>& is_alive);
  // Overwrites everything but the curve.
  void update(const Trial& trial);
  void update(std::span<const Trial> trials);  // in one transaction
  // Adds points; a point of a step already there replaces it, so that a
  // resumed trial may write its last points again.
  void append_curve(
      const std::string& trial_id, const std::vector<CurvePoint>& points);

  std::optional<Trial> find(const std::string& id) const;
  std::vector<Trial> trials() const;  // in the order added
  std::vector<CurvePoint> curve(const std::string& trial_id) const;

  // Free-form facts about the search: hardware, versions, command, config.
  void set_metadata(const std::string& key, const base::Json& value);
  base::Json metadata() const;

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace einforge::store
