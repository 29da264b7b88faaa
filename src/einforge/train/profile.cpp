#include "einforge/train/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <utility>

#include "einforge/base/error.h"

namespace einforge::train {
namespace {

namespace kineto = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

constexpr std::size_t kLongestName = 70;

std::int64_t now() {
  return std::chrono::steady_clock::now().time_since_epoch() /
         std::chrono::nanoseconds(1);
}

std::set<ActivityType> activities(torch::Device device) {
  std::set<ActivityType> result = {ActivityType::CPU};
  if (device.is_cuda()) {
    result.insert(ActivityType::CUDA);
  }
  return result;
}

// Torch's errors go over many lines.
[[noreturn]] void refuse(const char* what) {
  const std::string_view text = what;
  throw std::runtime_error(fmt::format(
      "profile: this Torch cannot profile: {}",
      text.substr(0, text.find('\n'))));
}

struct Span {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  const std::string* name = nullptr;
};

struct Sum {
  std::uint64_t nanoseconds = 0;
  std::int64_t calls = 0;
};
using Sums = std::map<std::string, Sum>;

// Sorted by begin, and a caller before what it calls.
void sort(std::vector<Span>& spans) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
}

// The time of each operator of one thread without that of those within.
void add_self_times(std::vector<Span>& spans, Sums& sums) {
  sort(spans);
  std::vector<const Span*> open;
  for (const Span& span : spans) {
    while (!open.empty() && open.back()->end <= span.begin) {
      open.pop_back();
    }
    const std::uint64_t length = span.end - span.begin;
    if (!open.empty()) {
      Sum& caller = sums[*open.back()->name];
      caller.nanoseconds -= std::min(length, open.back()->end - span.begin);
    }
    Sum& sum = sums[*span.name];
    sum.nanoseconds += length;
    ++sum.calls;
    open.push_back(&span);
  }
}

// Of the time that any of the spans covers.
std::uint64_t covered(std::vector<Span>& spans) {
  sort(spans);
  std::uint64_t sum = 0;
  std::uint64_t until = 0;
  for (const Span& span : spans) {
    if (span.end > until) {
      sum += span.end - std::max(span.begin, until);
      until = span.end;
    }
  }
  return sum;
}

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         (c >= 'A' && c <= 'Z') || c == '_';
}

void erase_all(std::string& text, std::string_view part) {
  for (std::size_t at = text.find(part); at != std::string::npos;
       at = text.find(part, at)) {
    text.erase(at, part.size());
  }
}

// "RETURN ns::NAME<ARGUMENTS>(PARAMETERS)" to {"ns::NAME", "ARGUMENTS"}.
std::pair<std::string, std::string> split_name(const std::string& name) {
  int depth = 0;
  std::size_t begin = 0;
  std::size_t end = name.size();
  std::size_t open = std::string::npos;  // of the last outer <
  std::size_t close = std::string::npos;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    if (c == '<') {
      open = depth++ == 0 ? i : open;
    } else if (c == '>' && depth > 0) {
      close = --depth == 0 ? i : close;
    } else if (depth == 0 && c == '(') {
      end = i;
      break;
    } else if (depth == 0 && c == ' ') {
      begin = i + 1;
    }
  }
  if (open == std::string::npos || close == std::string::npos || open < begin ||
      close + 1 != end) {
    return {name.substr(begin, end - begin), ""};
  }
  return {
      name.substr(begin, open - begin),
      name.substr(open + 1, close - open - 1)};
}

// What distinguishes Torch's kernels: functors, operations, the functions that
// launch them.
std::vector<std::string> distinctive_words(const std::string& arguments) {
  std::vector<std::string> words;
  std::string first;
  for (std::size_t i = 0; i < arguments.size();) {
    if (!is_word(arguments[i])) {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < arguments.size() && is_word(arguments[i])) {
      ++i;
    }
    const std::string word = arguments.substr(begin, i - begin);
    const char next = i < arguments.size() ? arguments[i] : ' ';
    const bool launcher = next == '(' && word != "operator" && word != "lambda";
    if ((launcher || word.ends_with("unctor") || word.ends_with("Op") ||
         word.ends_with("Ops")) &&
        std::find(words.begin(), words.end(), word) == words.end()) {
      words.push_back(word);
    }
    const bool scope = next == ':';
    if (first.empty() && word.size() > 5 && !scope && word != "unsigned" &&
        word != "BFloat16") {
      first = word;
    }
  }
  if (words.empty() && !first.empty()) {
    words.push_back(first);
  }
  words.resize(std::min<std::size_t>(words.size(), 2));
  return words;
}

// Names that differ mostly do so at their ends.
std::string shorten(const std::string& name) {
  constexpr std::size_t kTail = 24;
  return name.size() <= kLongestName
             ? name
             : name.substr(0, kLongestName - kTail - 3) + "..." +
                   name.substr(name.size() - kTail);
}

void add_rows(const Sums& sums, Profile& profile) {
  double all = 0;
  for (const auto& [name, sum] : sums) {
    all += static_cast<double>(sum.nanoseconds);
  }
  const auto steps = static_cast<double>(profile.steps);
  for (const auto& [name, sum] : sums) {
    const auto nanoseconds = static_cast<double>(sum.nanoseconds);
    profile.rows.push_back(
        {.name = name,
         .milliseconds = nanoseconds / 1e6 / steps,
         .share = all > 0 ? nanoseconds / all : 0,
         .calls = static_cast<double>(sum.calls) / steps});
  }
  std::stable_sort(
      profile.rows.begin(),
      profile.rows.end(),
      [](const auto& a, const auto& b) {
        return a.milliseconds > b.milliseconds;
      });
}

}  // namespace

std::optional<double> Profile::idle_share() const {
  const double step = milliseconds.value_or(profiled_milliseconds);
  if (!busy_milliseconds || step <= 0) {
    return std::nullopt;
  }
  return std::max(0.0, 1 - *busy_milliseconds / step);
}

base::Json to_json(const Profile& profile) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? base::Json(*value) : base::Json();
  };
  base::Json rows = base::Json::array();
  for (const Profile::Row& row : profile.rows) {
    rows.push_back(
        {{"name", row.name},
         {"milliseconds", row.milliseconds},
         {"share", row.share},
         {"calls", row.calls}});
  }
  return {
      {"rows_are", profile.gpu ? "kernels" : "operators"},
      {"steps", profile.steps},
      {"step_milliseconds", optional(profile.milliseconds)},
      {"profiled_step_milliseconds", profile.profiled_milliseconds},
      {"gpu_busy_milliseconds", optional(profile.busy_milliseconds)},
      {"gpu_idle_share", optional(profile.idle_share())},
      {"rows", rows}};
}

std::string profile_table(const Profile& profile) {
  constexpr std::size_t kMostRows = 25;
  std::string text = fmt::format(
      "{:<{}} {:>8} {:>6} {:>7}\n",
      profile.gpu ? "kernel" : "operator",
      kLongestName,
      "ms/step",
      "share",
      "calls");
  const auto add = [&](const Profile::Row& row) {
    text += fmt::format(
        "{:<{}} {:>8.3f} {:>5.1f}% {:>7.4g}\n",
        row.name,
        kLongestName,
        row.milliseconds,
        100 * row.share,
        row.calls);
  };
  Profile::Row rest{.name = "all others"};
  for (std::size_t i = 0; i < profile.rows.size(); ++i) {
    const Profile::Row& row = profile.rows[i];
    if (i < kMostRows) {
      add(row);
      continue;
    }
    rest.milliseconds += row.milliseconds;
    rest.share += row.share;
    rest.calls += row.calls;
  }
  if (rest.calls > 0) {
    add(rest);
  }
  text += fmt::format(
      "a step took {:.2f} ms with the profiler, over {}",
      profile.profiled_milliseconds,
      profile.steps);
  if (profile.milliseconds) {
    text += fmt::format(", and {:.2f} ms without", *profile.milliseconds);
  }
  if (const auto idle = profile.idle_share()) {
    text += fmt::format(
        "\nthe GPU was busy for {:.2f} ms of it and idle for {:.0f}%",
        *profile.busy_milliseconds,
        100 * *idle);
  }
  return text + "\n";
}

std::string short_kernel_name(std::string_view name) {
  if (name.starts_with("Memcpy") || name.starts_with("Memset")) {
    return shorten(std::string(name.substr(0, name.find(" ("))));
  }
  std::string text(name);
  for (const std::string_view part :
       {"(anonymous namespace)::",
        "<unnamed>::",
        "(int)",
        "(bool)",
        "at::native::",
        "at::",
        "c10::"}) {
    erase_all(text, part);
  }
  auto [base, arguments] = split_name(text);
  if (const std::size_t at = base.rfind("::"); at != std::string::npos) {
    base.erase(0, at + 2);
  }
  if (arguments.empty()) {
    return shorten(base);
  }
  if (base.size() + arguments.size() + 2 <= kLongestName) {
    return fmt::format("{}<{}>", base, arguments);
  }
  return shorten(fmt::format(
      "{}<{}>", base, fmt::join(distinctive_words(arguments), ", ")));
}

ProfileWindow profile_window(
    std::int64_t first,
    std::int64_t target,
    std::int64_t count,
    const std::function<bool(std::int64_t)>& busy) {
  // Allocators and caches have settled by then.
  constexpr std::int64_t kBefore = 10;
  constexpr std::int64_t kFarthest = 100;
  constexpr std::int64_t kMostTimed = 10;
  count = std::min(count, target - first);
  const std::int64_t earliest = std::min(first + kBefore, target - count);
  const std::int64_t latest = std::min(earliest + kFarthest, target - count);
  // None in (after, until].
  const auto is_quiet = [&](std::int64_t after, std::int64_t until) {
    while (after < until && !busy(after + 1)) {
      ++after;
    }
    return after == until;
  };
  // As many timed ones without logs as there can be, else any.
  const std::int64_t settled = first + (earliest - first + 1) / 2;
  for (std::int64_t timed = std::min(count, kMostTimed); timed > 0; --timed) {
    for (std::int64_t at = earliest; at <= latest; ++at) {
      if (at - timed >= settled && is_quiet(at - timed, at + count)) {
        return {.timed_from = at - timed, .from = at, .to = at + count};
      }
    }
  }
  std::int64_t from = earliest;
  while (from <= latest && !is_quiet(from, from + count)) {
    ++from;
  }
  if (from > latest) {
    from = earliest;
  }
  return {
      .timed_from = first + (from - first + 1) / 2,
      .from = from,
      .to = from + count};
}

Profiler::Profiler(torch::Device device) : device_(device) {
  if (kineto::isProfilerEnabledInMainThread()) {
    refuse("it is profiling already");
  }
  if (!device.is_cuda()) {
    // Else it says on standard error that there is no GPU.
    ::setenv("KINETO_LOG_LEVEL", "99", /*overwrite=*/0);
  }
  const ProfilerConfig config(ProfilerState::KINETO);
  try {
    kineto::prepareProfiler(config, activities(device));
    kineto::enableProfiler(config, activities(device));
  } catch (const std::exception& error) {
    refuse(error.what());
  }
  running_ = true;
  start_ = now();
}

Profiler::~Profiler() {
  if (running_) {
    try {
      kineto::disableProfiler();
    } catch (const std::exception&) {
      // Whatever ends this run is what matters.
    }
  }
}

Profile Profiler::stop(
    std::int64_t steps,
    std::optional<double> milliseconds,
    const std::filesystem::path& trace) {
  const std::int64_t end = now();
  running_ = false;
  std::unique_ptr<kineto::ProfilerResult> result;
  try {
    result = kineto::disableProfiler();
  } catch (const std::exception& error) {
    refuse(error.what());
  }
  Profile profile;
  profile.gpu = device_.is_cuda();
  profile.steps = steps;
  profile.milliseconds = milliseconds;
  profile.profiled_milliseconds =
      static_cast<double>(end - start_) / 1e6 / static_cast<double>(steps);

  Sums sums;
  std::map<std::string, std::string> names;
  std::map<std::uint64_t, std::vector<Span>> threads;
  std::vector<Span> kernels;
  for (const auto& event : result->events()) {
    const bool on_gpu = event.deviceType() == torch::kCUDA;
    if (on_gpu != profile.gpu || event.isAsync()) {
      continue;
    }
    const auto [name, is_new] = names.try_emplace(event.name());
    if (is_new) {
      name->second = on_gpu ? short_kernel_name(name->first) : name->first;
    }
    const Span span{event.startNs(), event.endNs(), &name->second};
    if (span.end < span.begin) {
      continue;  // cut off at the end
    }
    if (on_gpu) {
      Sum& sum = sums[name->second];
      sum.nanoseconds += span.end - span.begin;
      ++sum.calls;
      kernels.push_back(span);
    } else {
      threads[event.startThreadId()].push_back(span);
    }
  }
  for (auto& [thread, spans] : threads) {
    add_self_times(spans, sums);
  }
  if (sums.empty()) {
    refuse(
        profile.gpu ? "it recorded no kernel; is CUPTI there?"
                    : "it recorded no operator");
  }
  add_rows(sums, profile);
  if (profile.gpu) {
    profile.busy_milliseconds = static_cast<double>(covered(kernels)) / 1e6 /
                                static_cast<double>(steps);
  }
  try {
    result->save(trace);
  } catch (const std::exception& error) {
    refuse(error.what());
  }
  if (!std::filesystem::exists(trace)) {
    throw base::IoError(
        fmt::format("'{}': the trace could not be written", trace.string()));
  }
  return profile;
}

}  // namespace einforge::train
