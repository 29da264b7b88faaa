#include "einforge/search/merge.h"

#include <optional>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/search/ledger.h"

namespace einforge::search {

Merged merge(store::Store& into, const store::Store& from) {
  const base::Json here = into.metadata();
  const base::Json there = from.metadata();
  for (const char* key : {"data", "scheduler"}) {
    base::check(
        !here.contains(key) || !there.contains(key) || here[key] == there[key],
        "merge: expected searches with the same {}; got {} and {}",
        key,
        here.value(key, base::Json()).dump(),
        there.value(key, base::Json()).dump());
  }
  Merged result;
  for (store::Trial trial : from.trials()) {
    if (trial.status == store::Status::kRunning) {
      trial.status = store::Status::kQueued;
      trial.worker.clear();
    }
    trial.fence = 0;
    const std::optional<store::Trial> known = into.find(trial.id);
    if (known && !got_further(trial, *known)) {
      ++result.kept;
      continue;
    }
    if (known) {
      trial.fence = known->fence;
      ++result.replaced;
    } else {
      into.add(trial);
      ++result.added;
    }
    // First what a trial is judged by.
    into.append_curve(trial.id, from.curve(trial.id));
    if (known) {
      into.update(trial);
    }
  }
  for (const auto& [key, value] : there.items()) {
    into.set_metadata_once(key, value);
  }
  return result;
}

}  // namespace einforge::search
