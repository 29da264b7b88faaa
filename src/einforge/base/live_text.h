#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::base {

// "[########............]", `share` being what is done, 0 to 1.
std::string progress_bar(double share);

// Lines on standard error that say how work goes on: on a terminal redrawn in
// place, elsewhere the first of them now and then, so that a log stays
// readable. All progress that is shown is shown by this.
class LiveText {
 public:
  using Interval = std::chrono::milliseconds;

  // Redrawn at most so often on a terminal, and printed elsewhere.
  LiveText(Interval on_terminal, Interval elsewhere);
  LiveText(const LiveText&) = delete;
  LiveText& operator=(const LiveText&) = delete;
  // Leaves what was last shown.
  ~LiveText();

  bool on_terminal() const { return terminal_; }
  // Whether enough time has passed since the last show().
  bool due() const;
  // Text is made printable and cut to the terminal's width.
  void show(const std::vector<std::string>& lines);
  // A line that stays, above those that are redrawn.
  void log(std::string_view line);

 private:
  using Clock = std::chrono::steady_clock;

  std::string erasing() const;
  std::string drawing() const;

  Interval interval_;
  bool terminal_;
  std::vector<std::string> shown_;
  Clock::time_point last_shown_{};
};

}  // namespace einforge::base
