#include "einforge/ops/cuda/choice_cache.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

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
    base::Json all = base::Json::parse(base::read_file(file));
    return all.is_object() ? all : base::Json::object();
  } catch (const std::exception&) {
    return base::Json::object();
  }
}

}  // namespace

ChoiceCache::ChoiceCache(std::filesystem::path file, std::string version)
    : file_(std::move(file)), version_(std::move(version)) {
  const base::Json all = read(file_);
  const auto found = all.find(version_);
  if (found == all.end() || !found->is_object()) {
    return;
  }
  for (const auto& [problem, choice] : found->items()) {
    if (choice.is_string()) {
      choices_[problem] = choice.get<std::string>();
    }
  }
}

std::optional<std::string> ChoiceCache::find(const std::string& problem) const {
  const std::lock_guard lock(mutex_);
  const auto found = choices_.find(problem);
  return found == choices_.end() ? std::nullopt
                                 : std::optional<std::string>(found->second);
}

void ChoiceCache::insert(
    const std::string& problem, const std::string& choice) {
  const std::lock_guard lock(mutex_);
  choices_[problem] = choice;
  try {
    base::make_directory(file_.parent_path());
    base::Json all = read(file_);
    base::Json& ours = all[version_];
    if (!ours.is_object()) {
      ours = base::Json::object();
    }
    for (const auto& [key, value] : choices_) {
      ours[key] = value;
    }
    base::write_file_atomically(file_, all.dump(1) + "\n");
  } catch (const std::exception& error) {
    if (!reported_) {
      fmt::print(
          stderr,
          "einforge: measured kernel choices are not kept: {}\n",
          error.what());
      reported_ = true;
    }
  }
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
