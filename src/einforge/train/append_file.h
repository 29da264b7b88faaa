#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace einforge::train {

// A file that only grows, written at once and without a buffer: what was
// appended is there after kill -9. All but the destructor throw base::IoError.
class AppendFile {
 public:
  explicit AppendFile(const std::filesystem::path& path);
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  ~AppendFile();

  void append(std::string_view bytes);
  // There after a power cut too.
  void sync();

 private:
  std::string what_;
  int fd_;
};

}  // namespace einforge::train
