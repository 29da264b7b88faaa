#include "einforge/ops/deterministic.h"

#include <ATen/Context.h>

namespace einforge::ops {

Deterministic::Deterministic()
    : on_(at::globalContext().deterministicAlgorithms()),
      warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()),
      fill_(at::globalContext().deterministicFillUninitializedMemory()) {
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Where the caller has them on, filling is the caller's to decide.
  at::globalContext().setDeterministicFillUninitializedMemory(on_ && fill_);
}

Deterministic::~Deterministic() {
  at::globalContext().setDeterministicAlgorithms(on_, warn_only_);
  at::globalContext().setDeterministicFillUninitializedMemory(fill_);
}

}  // namespace einforge::ops
