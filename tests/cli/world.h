#pragma once

#include <fstream>
#include <string>
#include <string_view>

#include "tests/base/temporary_directory.h"

namespace einforge::cli {

// A folder with one good and many bad files of each kind that einforge reads,
// made once, mostly by einforge itself. world_testing.cpp lists them.
class World {
 public:
  static const World& get();

  const std::string& path() const { return path_; }
  // `text` with each "{}" replaced by the folder.
  std::string expand(std::string_view text) const;
  void write(const std::string& name, std::string_view text) const;
  std::string read(const std::string& name) const;

 private:
  World();
  void make_text() const;
  void make_data() const;
  void make_shards() const;
  void make_configs() const;
  void make_checkpoints() const;
  void make_stores() const;
  void make_csv() const;
  void copy(const char* from, const char* to) const;
  void einforge(const std::string& arguments) const;

  base::testing::TemporaryDirectory folder_;
  std::string path_;
};

}  // namespace einforge::cli
