#include "einforge/train/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "einforge/base/error.h"

namespace einforge::train {

RunLock::RunLock(const std::filesystem::path& directory)
    : fd_(::open(
          (directory / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0) {
    base::throw_io_error(
        fmt::format("cannot write in '{}'", directory.string()), errno);
  }
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const bool taken = errno == EWOULDBLOCK;
    ::close(fd_);
    // A file system without locks is no reason not to train.
    fd_ = -1;
    base::check(
        !taken,
        "'{}': another process trains here; expected a folder of its own",
        directory.string());
  }
}

RunLock::~RunLock() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

}  // namespace einforge::train
