#include "einforge/train/append_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "einforge/base/error.h"

namespace einforge::train {

AppendFile::AppendFile(const std::filesystem::path& path)
    : what_(fmt::format("cannot write '{}'", path.string())),
      fd_(::open(
          path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) {
    base::throw_io_error(what_, errno);
  }
}

AppendFile::~AppendFile() {
  ::close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      base::throw_io_error(what_, errno);
    }
    bytes.remove_prefix(
        static_cast<std::size_t>(std::max<ssize_t>(0, written)));
  }
}

void AppendFile::sync() {
  if (::fsync(fd_) != 0) {
    base::throw_io_error(what_, errno);
  }
}

}  // namespace einforge::train
