#include "cli/make_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <system_error>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/store/store.h"

namespace einforge::cli {

std::filesystem::path store_file(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    return path;
  }
  const std::filesystem::path inside =
      std::filesystem::path(path) / "trials.db";
  base::check(
      std::filesystem::exists(inside, ignored),
      "'{}': expected a search's folder, which holds trials.db; got another "
      "folder",
      path);
  return inside;
}

void check_baseline(
    const std::vector<std::string>& structures, const std::string& baseline) {
  std::vector<std::string> names;
  for (const std::string& name : structures) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
    }
  }
  base::check(
      std::find(names.begin(), names.end(), baseline) != names.end(),
      "--baseline: expected one of {}; got '{}'{}",
      fmt::join(names, ", "),
      baseline,
      base::suggestion(baseline, names));
}

report::Summary make_report(
    const std::filesystem::path& store,
    report::SummaryOptions options,
    bool quiet) {
  constexpr int kParts = 1000;
  std::optional<base::Progress> bar;
  if (!quiet) {
    bar.emplace("making the report", kParts);
    options.progress = [&bar](double share) {
      bar->update(std::lround(kParts * share));
    };
  }
  return report::summarise(
      store::Store::open_read_only(store), std::move(options));
}

}  // namespace einforge::cli
