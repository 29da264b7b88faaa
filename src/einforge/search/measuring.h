#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "einforge/search/config.h"
#include "einforge/search/costs.h"
#include "einforge/search/space.h"
#include "einforge/store/store.h"

namespace einforge::search {

// Who wants to know. Another program trains what is asked for, so that speeds
// and memory on this device say nothing; one that joins takes what the first
// has measured.
enum class Use { kTrain, kAsk, kJoin };

// What is known before anything trains.
struct Known {
  std::map<std::string, double> speeds;  // FLOP/s, by kind_of()
  std::map<std::string, double> layers;  // ms of a token, by DecodeLayer::key
  CostTable costs;
};

// Of `what`, `done` of `all` are measured.
using OnMeasured = std::function<void(const char* what, int done, int all)>;

// Whether the search has to know anything of these.
bool measures(const SearchConfig& config, Use use);

// Measures what the objectives and the constraints ask for and `known` has not.
// Speeds and memory by measure_speeds(), of at most 200 kinds that it trains;
// the memory of those that it knows nothing of, and all of it on a CPU, is
// estimated_memory(), times what the known ones were over theirs (median).
Known measure(
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Known known,
    Use use,
    const OnMeasured& on_measured);

// The same with what the store knows, which is not measured again, since other
// numbers might change decisions; the rest is written there.
// Throws base::InvalidInput where one that joins needs what is not there.
Known measure_in(
    store::Store& store,
    const SearchConfig& config,
    const std::vector<Proposal>& proposals,
    Use use,
    const OnMeasured& on_measured);

}  // namespace einforge::search
