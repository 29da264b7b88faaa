#include "einforge/search/display.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "einforge/base/text.h"

namespace einforge::search {
namespace {

constexpr std::size_t kMostBest = 8;
constexpr std::size_t kMostRunning = 16;

std::string eta(double seconds) {
  return std::isfinite(seconds) ? base::human_duration(seconds) : "--";
}

std::string summary(const Snapshot& snapshot) {
  return fmt::format(
      "{}/{} trials{}, {:.0f}% of compute, {} elapsed, ETA {}",
      snapshot.done,
      snapshot.total,
      snapshot.failed > 0 ? fmt::format(" ({} failed)", snapshot.failed) : "",
      100 * snapshot.share_done,
      base::human_duration(snapshot.elapsed),
      eta(snapshot.seconds_left));
}

}  // namespace

std::vector<std::string> render(const Snapshot& snapshot) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format(
      "{} {} {}",
      snapshot.name,
      base::progress_bar(snapshot.share_done),
      summary(snapshot)));
  if (!snapshot.belief.empty()) {
    lines.push_back("  " + snapshot.belief);
  }
  for (std::size_t i = 0; i < snapshot.running.size(); ++i) {
    if (i == kMostRunning) {
      lines.push_back(fmt::format(
          "  ... and {} more", snapshot.running.size() - kMostRunning));
      break;
    }
    const Snapshot::Running& running = snapshot.running[i];
    std::string line = fmt::format("  {:>2}  {}", i + 1, running.trial);
    if (running.target > 0) {
      line += fmt::format(
          "  {:3.0f}%  step {}/{}",
          100.0 * static_cast<double>(running.step) /
              static_cast<double>(running.target),
          running.step,
          running.target);
      if (std::isfinite(running.loss)) {
        line += fmt::format("  loss {:.3f}", running.loss);
      }
    }
    lines.push_back(line);
  }
  const std::size_t shown = std::min(kMostBest, snapshot.best.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const Snapshot::Best& best = snapshot.best[i];
    lines.push_back(fmt::format(
        "  {}  {:.4f}  {}  {}",
        i == 0 ? "best" : "    ",
        best.loss,
        best.structure,
        best.model));
  }
  return lines;
}

Display::Display(bool quiet)
    : quiet_(quiet),
      text_(
          // A few redraws per second look alive; a log wants a line every half
          // minute.
          std::chrono::milliseconds(250),
          std::chrono::milliseconds(30'000)) {}

bool Display::due() const {
  return !quiet_ && text_.due();
}

void Display::show(const Snapshot& snapshot) {
  if (quiet_) {
    return;
  }
  if (text_.on_terminal()) {
    text_.show(render(snapshot));
    return;
  }
  std::string line = fmt::format("{}: {}", snapshot.name, summary(snapshot));
  if (!snapshot.belief.empty()) {
    line += "; " + snapshot.belief;
  }
  text_.show({line});
}

void Display::log(std::string_view line, bool important) {
  if (!quiet_ || important) {
    text_.log(line);
  }
}

}  // namespace einforge::search
