#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/report/summary.h"

namespace einforge::report {

// docs/report.md lists the keys. What is not known is null, with a reason
// beside it.
base::Json to_json(const Summary& summary);

// Parts of it: "ranking", "best_at_budget", "pareto", "importances" and
// "expectations"; the last two are null where there are none.
base::Json ranking_json(const Summary& summary);
base::Json budget_json(const Summary& summary);
base::Json pareto_json(const Summary& summary);
base::Json importances_json(const Summary& summary);
base::Json expectations_json(const Summary& summary);

// One analysis; the "fits" entries above and what `einforge fit --json` prints.
base::Json to_json(const scaling::Analysis& analysis);

// As base::dump_json, for people.
inline std::string dump(const base::Json& json, int indent = 2) {
  return base::dump_json(json, indent);
}

// The string under `key`, or "" where there is none: a store may hold anything.
std::string text_at(const base::Json& object, const std::string& key);

// The points of a frontier that to_json() writes: at most `most` that keep its
// shape (thin.h).
constexpr std::size_t kMostFrontierPoints = 1000;
std::vector<std::size_t> thin_frontier(
    std::span<const scaling::FrontierPoint> frontier, std::size_t most);

}  // namespace einforge::report
