#include "einforge/search/display.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "einforge/base/text.h"

namespace einforge::search {
namespace {

constexpr std::size_t kMostBest = 8;
constexpr std::size_t kMostRunning = 16;

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 80;
}

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

std::vector<std::string> render(const Snapshot& snapshot, int columns) {
  constexpr int kBarWidth = 20;
  const int filled =
      static_cast<int>(std::clamp(snapshot.share_done, 0.0, 1.0) * kBarWidth);
  std::vector<std::string> lines;
  lines.push_back(fmt::format(
      "{} [{:#<{}}{:.<{}}] {}",
      snapshot.name,
      "",
      filled,
      "",
      kBarWidth - filled,
      summary(snapshot)));
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
  for (std::string& line : lines) {
    if (line.size() > static_cast<std::size_t>(columns)) {
      line.resize(static_cast<std::size_t>(columns));
    }
  }
  return lines;
}

Display::Display(bool quiet)
    : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}

Display::~Display() {
  std::fflush(stderr);
}

void Display::erase() {
  if (drawn_lines_ > 0) {
    // Up to the block's first line, then clear to the end of the screen.
    fmt::print(stderr, "\033[{}A\r\033[J", drawn_lines_);
    drawn_lines_ = 0;
  }
}

void Display::show(const Snapshot& snapshot, bool now) {
  // A few redraws a second look alive; a log wants a line every half minute.
  const auto interval = terminal_ ? std::chrono::milliseconds(250)
                                  : std::chrono::milliseconds(30'000);
  if (quiet_ || (!now && Clock::now() - last_drawn_ < interval)) {
    return;
  }
  last_drawn_ = Clock::now();
  if (!terminal_) {
    fmt::print(stderr, "{}: {}\n", snapshot.name, summary(snapshot));
    return;
  }
  last_ = render(snapshot, terminal_columns() - 1);
  erase();
  for (const std::string& line : last_) {
    fmt::print(stderr, "{}\n", line);
  }
  drawn_lines_ = last_.size();
  std::fflush(stderr);
}

void Display::log(std::string_view line, bool important) {
  if (quiet_ && !important) {
    return;
  }
  erase();
  fmt::print(stderr, "{}\n", line);
  if (terminal_ && !quiet_) {
    for (const std::string& kept : last_) {
      fmt::print(stderr, "{}\n", kept);
    }
    drawn_lines_ = last_.size();
  }
  std::fflush(stderr);
}

}  // namespace einforge::search
