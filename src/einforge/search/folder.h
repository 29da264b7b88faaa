#pragma once

#include <filesystem>
#include <string>

#include "einforge/search/config.h"
#include "einforge/store/location.h"

namespace einforge::search {

// Where things lie in a search's folder, and what it keeps elsewhere.
struct Folder {
  std::filesystem::path root;
  std::string database = "";               // instead of a file
  std::filesystem::path checkpoints = "";  // instead of a folder

  // As store::Store takes it.
  std::string store() const {
    return database.empty() ? (root / "trials.db").string() : database;
  }
  // The SearchConfig as it runs now; workers read it.
  std::filesystem::path config() const { return root / "search.json"; }
  std::filesystem::path trials() const {
    return checkpoints.empty() ? root / "trials" : checkpoints;
  }
  // Checkpoints and logs of a trial.
  std::filesystem::path trial(const std::string& id) const {
    return trials() / id;
  }
  // A link to each trial's folder under a name that says what it trains.
  std::filesystem::path tensorboard() const { return root / "tensorboard"; }
  std::filesystem::path log() const { return root / "workers.log"; }
  std::filesystem::path report() const { return root / "report.html"; }
  std::filesystem::path report_json() const { return root / "report.json"; }
};

inline Folder folder_of(const SearchConfig& config) {
  return {
      config.out,
      config.store.empty() ? "" : store::with_search(config.store, config.name),
      config.checkpoints};
}

}  // namespace einforge::search
