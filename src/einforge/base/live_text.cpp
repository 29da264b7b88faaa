#include "einforge/base/live_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "einforge/base/console.h"
#include "einforge/base/text.h"

namespace einforge::base {
namespace {

std::size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 80;
}

}  // namespace

std::string progress_bar(double share) {
  constexpr int kWidth = 20;
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * kWidth);
  return fmt::format("[{:#<{}}{:.<{}}]", "", filled, "", kWidth - filled);
}

LiveText::LiveText(Interval on_terminal, Interval elsewhere)
    : interval_(on_terminal), terminal_(::isatty(STDERR_FILENO) == 1) {
  if (!terminal_) {
    interval_ = elsewhere;
  }
}

LiveText::~LiveText() {
  if (terminal_ && !shown_.empty()) {
    note_raw("\n");
  }
}

bool LiveText::due() const {
  return Clock::now() - last_shown_ >= interval_;
}

// The cursor stays behind the last line.
std::string LiveText::erasing() const {
  return shown_.size() > 1 ? fmt::format("\r\033[{}A\033[J", shown_.size() - 1)
                           : "\r\033[J";
}

std::string LiveText::drawing() const {
  return fmt::format("{}", fmt::join(shown_, "\n"));
}

void LiveText::show(const std::vector<std::string>& lines) {
  last_shown_ = Clock::now();
  if (!terminal_) {
    note("{}\n", lines.empty() ? "" : printable(lines.front()));
    return;
  }
  const std::string erase = erasing();
  // The last column stays free: writing there wraps on some terminals.
  const std::size_t columns = std::max<std::size_t>(20, terminal_columns()) - 1;
  shown_.clear();
  for (const std::string& line : lines) {
    shown_.push_back(shortened(printable(line), columns));
  }
  note_raw(erase + drawing());
}

void LiveText::log(std::string_view line) {
  note_raw(
      terminal_ ? erasing() + printable(line) + "\n" + drawing()
                : printable(line) + "\n");
}

}  // namespace einforge::base
