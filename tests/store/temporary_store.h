#pragma once

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>

#include "einforge/store/store.h"

namespace einforge::store::testing {

// A fresh directory, removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name =
        (std::filesystem::temp_directory_path() / "einforge-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::runtime_error("mkdtemp failed");
    }
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

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
