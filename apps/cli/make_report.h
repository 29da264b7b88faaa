#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "einforge/report/summary.h"

namespace einforge::cli {

// The store that the user means: the file, or trials.db in the folder.
std::filesystem::path store_file(const std::string& path);

// Throws base::InvalidInput where no trial has the structure `baseline`;
// `structures` has that of each.
void check_baseline(
    const std::vector<std::string>& structures, const std::string& baseline);

// The report of a store, with a progress bar on standard error while its
// intervals are computed.
report::Summary make_report(
    const std::filesystem::path& store,
    report::SummaryOptions options,
    bool quiet = false);

}  // namespace einforge::cli
