#include "einforge/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <utility>

#include "einforge/base/error.h"

namespace einforge::base {
namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

void check_regular_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), "'{}': no such file", path.string());
  check(
      fs::is_regular_file(status),
      "'{}': expected a regular file; got a directory or a special file",
      path.string());
}

void write_all(
    int descriptor, std::string_view bytes, const std::string& what) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      throw_io_error(what, errno);
    }
    bytes.remove_prefix(written < 0 ? 0 : static_cast<std::size_t>(written));
  }
}

// A pipe, a terminal, /dev/null: nothing that a file may take the place of.
bool is_special(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  return fs::exists(status) && fs::is_other(status);
}

}  // namespace

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  const fs::path directory =
      path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path temporary =
      fs::path(path).concat(fmt::format(".tmp{}", ::getpid()));
  const std::string what = fmt::format("cannot write '{}'", path.string());
  if (is_special(path)) {
    const Descriptor file(path, O_WRONLY);
    if (file.get() < 0) {
      throw_io_error(what, errno);
    }
    write_all(file.get(), bytes, what);
    return;
  }
  try {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file.get() < 0) {
      throw_io_error(what, errno);
    }
    write_all(file.get(), bytes, what);
    if (::fsync(file.get()) != 0) {
      throw_io_error(what, errno);
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      throw_io_error(what, errno);
    }
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const Descriptor parent(directory, O_RDONLY | O_DIRECTORY);
  if (parent.get() >= 0) {
    ::fsync(parent.get());
  }
}

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path)) {
    throw_io_error(
        fmt::format("cannot make the directory '{}'", path.string()),
        error ? error.value() : ENOTDIR);
  }
}

MappedFile::MappedFile(const fs::path& path) {
  check_regular_file(path);
  const std::string what = fmt::format("cannot read '{}'", path.string());
  const Descriptor file(path, O_RDONLY);
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) {
    throw_io_error(what, errno);
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) {
    return;
  }
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) {
    throw_io_error(what, errno);
  }
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

}  // namespace einforge::base
