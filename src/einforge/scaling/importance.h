#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "einforge/scaling/intervals.h"

namespace einforge::scaling {

// What trials differ in.
struct Axis {
  std::string name;
  int levels = 1;
  // Levels have an order: neighbours are alike.
  bool ordered = false;
};

struct AxisSample {
  std::vector<int> levels;  // beside the axes
  double value = 0;
};

struct Importance {
  double share = 0;  // of the variance, 0 to 1
  Interval ci95;
};

struct Importances {
  std::vector<Importance> axes;  // what each does alone
  Importance together;           // what is left: axes in combination
};

struct ImportanceOptions {
  int trees = 200;
  std::uint64_t seed = 0;
  // Grows each tree on samples drawn with replacement; else on all of them.
  bool resample = true;
  // An axis to be held at its last level, which has a share of its own of 0;
  // -1: none.
  int held = -1;
};

// How much of the variance of the value over all combinations of levels, each
// as likely, each axis explains alone: the functional analysis of variance of
// regression trees, exact for each. Shares are means over the trees, intervals
// their 2.5% and 97.5% quantiles: a bootstrap over trials of what one tree
// finds. All 0 where the trees find no variance.
// Source: Hutter, Hoos and Leyton-Brown, An efficient approach for assessing
// hyperparameter importance, ICML 2014.
Importances importances(
    const std::vector<Axis>& axes,
    const std::vector<AxisSample>& samples,
    const ImportanceOptions& options = {});

}  // namespace einforge::scaling
