#include "einforge/ops/cuda/choice_cache.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"

namespace einforge::ops {
namespace {

// An empty object for whatever is not the object of objects expected.
base::Json read(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) {
    return base::Json::object();
  }
  try {
    const auto all = base::try_parse_json(base::read_file(file));
    return all && all->is_object() ? *all : base::Json::object();
  } catch (const std::exception&) {
    return base::Json::object();
  }
}

std::optional<Choice> choice_of(const base::Json& entry) {
  const auto is = [&](const char* key, base::Json::value_t type) {
    const auto found = entry.find(key);
    return found != entry.end() && found->type() == type;
  };
  if (!entry.is_object() || !is("name", base::Json::value_t::string) ||
      !is("settled", base::Json::value_t::boolean)) {
    return std::nullopt;
  }
  return Choice{
      .name = entry["name"].get<std::string>(),
      .is_settled = entry["settled"].get<bool>()};
}

// Others hold it for milliseconds; one that was stopped must not stop us.
base::FolderLock lock_soon(const std::filesystem::path& folder) {
  constexpr int kTries = 500;
  constexpr std::chrono::milliseconds kPause(10);
  for (int i = 1; i < kTries; ++i) {
    try {
      return base::FolderLock(folder);
    } catch (const base::InvalidInput&) {
      std::this_thread::sleep_for(kPause);
    }
  }
  return base::FolderLock(folder);
}

}  // namespace

ChoiceCache::ChoiceCache(std::filesystem::path file, std::string version)
    : file_(std::move(file)), version_(std::move(version)) {
  read_entries();
}

void ChoiceCache::read_entries() {
  const base::Json all = read(file_);
  const auto found = all.find(version_);
  if (found == all.end() || !found->is_object()) {
    return;
  }
  for (const auto& [problem, value] : found->items()) {
    Entry& entry = entries_[problem];
    if (const auto choice = choice_of(value); choice && !entry.is_own) {
      entry.choice = *choice;
    }
    if (entry.choice.name.empty()) {
      entries_.erase(problem);
    }
  }
}

void ChoiceCache::refresh() {
  const std::lock_guard lock(mutex_);
  read_entries();
}

std::optional<Choice> ChoiceCache::find(const std::string& problem) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(problem);
  return found == entries_.end() ? std::nullopt
                                 : std::make_optional(found->second.choice);
}

bool ChoiceCache::is_own(const std::string& problem) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(problem);
  return found != entries_.end() && found->second.is_own;
}

std::string ChoiceCache::insert(
    const std::string& problem, const Choice& choice) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[problem];
  entry = {choice, /*is_own=*/true};
  try {
    base::make_directory(file_.parent_path());
    const base::FolderLock folder_lock = lock_soon(file_.parent_path());
    base::Json all = read(file_);
    base::Json& ours = all[version_];
    if (!ours.is_object()) {
      ours = base::Json::object();
    }
    const auto there = ours.find(problem);
    const auto theirs =
        there == ours.end() ? std::nullopt : choice_of(there.value());
    if (theirs && theirs->is_settled && !choice.is_settled) {
      entry.choice = *theirs;
      return entry.choice.name;
    }
    ours[problem] = {
        {"name", choice.name},
        {"milliseconds", choice.milliseconds},
        {"settled", choice.is_settled}};
    base::write_file_atomically(file_, base::dump_json(all, 1) + "\n");
  } catch (const std::exception& error) {
    if (!reported_) {
      base::note(
          "einforge: measured kernel choices are not stored: {}\n",
          base::message_of(error));
      reported_ = true;
    }
  }
  return entry.choice.name;
}

std::filesystem::path cache_directory() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  if (const auto own = variable("EINFORGE_CACHE_DIR"); !own.empty()) {
    return own;
  }
  if (const auto xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) {
    return xdg / "einforge";
  }
  return variable("HOME") / ".cache" / "einforge";
}

}  // namespace einforge::ops
