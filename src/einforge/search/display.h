#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/base/live_text.h"

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
  std::string belief;  // of the scheduler; may be empty

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
  std::vector<Best> best;  // one per structure, lowest loss first
};

// The display as lines. Their text comes from files and may hold anything.
std::vector<std::string> render(const Snapshot& snapshot);

// Shows a search on standard error: on a terminal as a block of lines redrawn
// in place, elsewhere as a line now and then.
class Display {
 public:
  explicit Display(bool quiet);
  // Whether enough time has passed since the last show().
  bool due() const;
  void show(const Snapshot& snapshot);
  // A line that stays, above the block. Not silenced by `quiet` if `important`.
  void log(std::string_view line, bool important = false);

 private:
  bool quiet_;
  base::LiveText text_;
};

}  // namespace einforge::search
