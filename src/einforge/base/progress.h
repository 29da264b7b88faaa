#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "einforge/base/live_text.h"

namespace einforge::base {

// A one-line progress bar on standard error with rate and time left. On a
// terminal it redraws in place; elsewhere it prints a line now and then, so
// that a log stays readable. `EINFORGE_PROGRESS=0` silences it.
class Progress {
 public:
  // `total` in units of work; negative when unknown, and then only the note is
  // shown. `done_before` of them were done by an earlier run and do not count
  // towards the rate.
  Progress(std::string label, std::int64_t total, std::int64_t done_before = 0);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `note` follows the bar: "loss 1.23 | 45k tok/s".
  void update(std::int64_t done, std::string_view note = "");

  // Seconds until `total` at the mean rate so far; infinity at the start.
  double seconds_left() const;

 private:
  using Clock = std::chrono::steady_clock;

  std::string line(std::string_view note) const;

  std::string label_;
  std::int64_t total_;
  std::int64_t done_before_;
  std::int64_t done_;
  Clock::time_point started_ = Clock::now();
  LiveText text_;
  bool silent_;
};

}  // namespace einforge::base
