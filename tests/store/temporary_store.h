#pragma once

#include <string>

#include "einforge/store/store.h"
#include "tests/base/temporary_directory.h"

namespace einforge::store::testing {

using base::testing::TemporaryDirectory;

inline Trial make_trial(const std::string& id) {
  Trial trial;
  trial.id = id;
  trial.config = {{"seed", 1}};
  trial.structure = "btt:0.25";
  trial.taxonomy = {{"omega", 0.0}, {"psi", 1.0}, {"nu", 0.75}};
  trial.model = "gpt d64 L2";
  trial.parameters = 123456789012;
  trial.flops = 1.25e17;
  trial.learning_rate = 0.1;
  trial.final_loss = 1.0 / 3.0;
  trial.seconds = 12.5;
  return trial;
}

}  // namespace einforge::store::testing
