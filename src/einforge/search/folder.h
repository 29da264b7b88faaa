#pragma once

#include <filesystem>
#include <string>

#include "einforge/search/config.h"

namespace einforge::search {

// Where things lie in a search's folder.
struct Folder {
  std::filesystem::path root;

  std::filesystem::path store() const { return root / "trials.db"; }
  // The SearchConfig as it runs now; workers read it.
  std::filesystem::path config() const { return root / "search.json"; }
  // Checkpoints and logs of a trial.
  std::filesystem::path trial(const std::string& id) const {
    return root / "trials" / id;
  }
  // A link to each trial's folder under a name that says what it trains.
  std::filesystem::path tensorboard() const { return root / "tensorboard"; }
  std::filesystem::path log() const { return root / "workers.log"; }
  std::filesystem::path report() const { return root / "report.html"; }
  std::filesystem::path report_json() const { return root / "report.json"; }
};

}  // namespace einforge::search
