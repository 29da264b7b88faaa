#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "tests/base/temporary_directory.h"

namespace einforge::data {

// A folder of small files that goes away with the test.
class TemporaryFolder : public base::testing::TemporaryDirectory {
 public:
  // Returns the whole path.
  std::string write(const std::string& name, std::string_view text) const {
    const std::filesystem::path file = path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }
  std::string read(const std::string& name) const {
    std::ifstream stream(path() / name, std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }
};

}  // namespace einforge::data
