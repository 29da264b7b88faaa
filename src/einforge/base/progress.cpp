#include "einforge/base/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "einforge/base/text.h"

namespace einforge::base {
namespace {

constexpr std::int64_t kUnknown = -1;

}  // namespace

Progress::Progress(
    std::string label, std::int64_t total, std::int64_t done_before)
    : label_(std::move(label)),
      total_(total < 0 ? kUnknown : std::max<std::int64_t>(1, total)),
      done_before_(done_before),
      done_(done_before),
      // Ten redraws per second look alive; a log wants a line every 10 s.
      text_(std::chrono::milliseconds(100), std::chrono::seconds(10)) {
  const char* setting = std::getenv("EINFORGE_PROGRESS");
  silent_ = setting != nullptr && std::string_view(setting) == "0";
}

void Progress::update(std::int64_t done, std::string_view note) {
  done_ = done;
  const bool last = total_ != kUnknown && done >= total_;
  if (!silent_ && (last || text_.due())) {
    text_.show({line(note)});
  }
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
  if (total_ == kUnknown) {
    return fmt::format("{} {}", label_, note);
  }
  const double share = std::clamp(
      static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
  const double left = seconds_left();
  return fmt::format(
      "{} {} {:3.0f}% {}{} ETA {}",
      label_,
      progress_bar(share),
      100 * share,
      note,
      note.empty() ? "" : " |",
      std::isfinite(left) ? human_duration(left) : "--");
}

}  // namespace einforge::base
