#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::search {

// All that a search's display shows.
struct Snapshot {
  std::string name;
  int done = 0;    // trials that need no more work, failed ones included
  int failed = 0;  // failed or diverged
  int total = 0;
  double share_done = 0;  // of the compute
  double elapsed = 0;     // seconds
  double seconds_left = 0;

  struct Running {
    std::string trial;  // "btt:0.25 gpt d128 L2 lr 0.003"
    std::int64_t step = 0;
    std::int64_t target = 0;
    double loss = 0;  // NaN when unknown
  };
  std::vector<Running> running;

  struct Best {
    std::string structure;
    double loss = 0;
    std::string model;
  };
  std::vector<Best> best;  // one a structure, lowest loss first
};

// The display as lines no wider than `columns`.
std::vector<std::string> render(const Snapshot& snapshot, int columns);

// Shows a search on standard error: on a terminal as a block of lines redrawn
// in place, elsewhere as a line now and then.
class Display {
 public:
  explicit Display(bool quiet);
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;
  // Leaves the last state on the terminal.
  ~Display();

  // Redraws when enough time has passed since the last time, or `now`.
  void show(const Snapshot& snapshot, bool now = false);
  // A line that stays, above the block. Not silenced by `quiet` if `important`.
  void log(std::string_view line, bool important = false);

 private:
  using Clock = std::chrono::steady_clock;

  void erase();

  bool quiet_;
  bool terminal_;
  std::size_t drawn_lines_ = 0;
  std::vector<std::string> last_;
  Clock::time_point last_drawn_{};
};

}  // namespace einforge::search
