#pragma once

#include <string>

#include "einforge/report/summary.h"

namespace einforge::report {

// The trials as a file of Optuna's JournalStorage, an operation a line: a study
// of the final loss, and one of loss, FLOPs and seconds, all minimised.
// Parameters are the structure, width, layers and learning rate, and the seed,
// each where the trials have it; curves are intermediate values by step, and
// what trials cost user attributes. Both studies are named after the search.
// Source: optuna/storages/journal/_storage.py of Optuna 3.1 to 5.0.
std::string optuna_journal(const Summary& summary);

}  // namespace einforge::report
