#include "einforge/base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

#include "einforge/base/text.h"

namespace einforge::base {
namespace {

constexpr std::int64_t kUnknown = -1;

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 80;
}

}  // namespace

Progress::Progress(
    std::string label, std::int64_t total, std::int64_t done_before)
    : label_(std::move(label)),
      total_(total < 0 ? kUnknown : std::max<std::int64_t>(1, total)),
      done_before_(done_before),
      done_(done_before),
      terminal_(::isatty(STDERR_FILENO) == 1) {
  const char* setting = std::getenv("EINFORGE_PROGRESS");
  silent_ = setting != nullptr && std::string_view(setting) == "0";
}

Progress::~Progress() {
  if (terminal_ && drawn_) {
    std::fputc('\n', stderr);
  }
}

void Progress::update(std::int64_t done, std::string_view note) {
  done_ = done;
  // Ten redraws a second look alive; a log wants a line every 10 s.
  const auto interval = terminal_ ? std::chrono::milliseconds(100)
                                  : std::chrono::milliseconds(10'000);
  const bool last = total_ != kUnknown && done >= total_;
  if (silent_ || (!last && Clock::now() - last_drawn_ < interval)) {
    return;
  }
  last_drawn_ = Clock::now();
  draw(note);
}

double Progress::seconds_left() const {
  const double elapsed =
      std::chrono::duration<double>(Clock::now() - started_).count();
  const auto fresh = static_cast<double>(done_ - done_before_);
  if (fresh <= 0 || total_ == kUnknown) {
    return std::numeric_limits<double>::infinity();
  }
  return elapsed / fresh *
         static_cast<double>(std::max<std::int64_t>(0, total_ - done_));
}

std::string Progress::line(std::string_view note) const {
  constexpr int kBarWidth = 20;
  if (total_ == kUnknown) {
    return fmt::format("{} {}", label_, note);
  }
  const double share = std::clamp(
      static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
  const int filled = static_cast<int>(share * kBarWidth);
  const double left = seconds_left();
  return fmt::format(
      "{} [{:#<{}}{:.<{}}] {:3.0f}% {}{}{} ETA {}",
      label_,
      "",
      filled,
      "",
      kBarWidth - filled,
      100 * share,
      note,
      note.empty() ? "" : " |",
      "",
      std::isfinite(left) ? human_duration(left) : "--");
}

void Progress::draw(std::string_view note) {
  std::string text = line(note);
  if (terminal_) {
    text.resize(
        static_cast<std::size_t>(std::max(20, terminal_columns() - 1)), ' ');
    fmt::print(stderr, "\r{}", text);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace einforge::base
