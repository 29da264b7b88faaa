#pragma once

#include <filesystem>

namespace einforge::train {

// Keeps two processes from training in one folder. The system drops the lock
// when the process ends, however it ends.
class RunLock {
 public:
  // Throws base::InvalidInput when another process holds it, base::IoError
  // when the folder cannot be written.
  explicit RunLock(const std::filesystem::path& directory);
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock();

 private:
  int fd_;
};

}  // namespace einforge::train
