#pragma once

#include "einforge/store/store.h"

namespace einforge::search {

struct Merged {
  int added = 0;     // trials that were not there
  int replaced = 0;  // trials that `from` had trained further
  int kept = 0;
};

// Adds what `from` has to `into`: trials with their curves, of two records of
// one trial the one that got further. What was running there is queued here.
// Throws base::InvalidInput when the two are searches on other data or with
// another scheduler.
Merged merge(store::Store& into, const store::Store& from);

}  // namespace einforge::search
