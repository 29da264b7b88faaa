#include "einforge/base/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <random>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::base {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".einforge-tmp";
constexpr std::size_t kLongestInput = std::size_t{4} << 30U;  // bytes

std::string cannot(const char* what, const fs::path& path) {
  return fmt::format("cannot {} '{}'", what, path.string());
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void check_regular_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), "'{}': no such file", path.string());
  check(
      fs::is_regular_file(status),
      "'{}': expected a regular file; got a directory or a special file",
      path.string());
}

// A pipe, a terminal, /dev/null: nothing that a file may take the place of.
bool is_special(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  return fs::exists(status) && fs::is_other(status);
}

// What a chain of links leads to, whether or not it is there.
fs::path follow_links(fs::path path) {
  constexpr int kMostLinks = 40;  // as Linux has it
  for (int i = 0; i < kMostLinks; ++i) {
    std::error_code none;
    const fs::path next = fs::read_symlink(path, none);
    if (none) {
      return path;
    }
    path = next.is_absolute() ? next : folder_of(path) / next;
  }
  throw_io_error(cannot("write", path), ELOOP);
}

bool same_file(int descriptor, const fs::path& path) {
  struct stat open {};
  struct stat named {};
  return ::fstat(descriptor, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

// What the temporary files of `target` begin with.
std::string temporary_prefix(const fs::path& target) {
  constexpr std::size_t kLongest = 200;  // NAME_MAX is 255
  return target.filename().string().substr(0, kLongest) + ".";
}

// Removes the temporary files that begin so and that nobody has locked.
void remove_stale(const fs::path& directory, const std::string& prefix) {
  std::error_code error;
  for (fs::directory_iterator item(directory, error), end;
       !error && item != end;
       item.increment(error)) {
    const std::string file = item->path().filename().string();
    if (!file.ends_with(kTemporary) || !file.starts_with(prefix)) {
      continue;
    }
    const int descriptor =
        ::open(item->path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor >= 0) {
      if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
        ::unlink(item->path().c_str());
      }
      ::close(descriptor);
    }
  }
}

// A new temporary file beside `target`, locked. Another process may take it
// for stale before it is locked, and then there is another one.
int open_temporary(const fs::path& target, fs::path& temporary) {
  std::random_device random;
  for (;;) {
    temporary =
        folder_of(target) /
        fmt::format(
            "{}{:08x}{}", temporary_prefix(target), random(), kTemporary);
    const int descriptor = ::open(
        temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno != EEXIST) {
      return -1;
    }
    // Without locks nobody takes it for stale.
    if (descriptor >= 0 && (::flock(descriptor, LOCK_EX) != 0 ||
                            same_file(descriptor, temporary))) {
      return descriptor;
    }
    if (descriptor >= 0) {
      ::close(descriptor);
    }
  }
}

std::string read_stream(int descriptor, const std::string& what) {
  std::string text;
  std::array<char, 1 << 16> buffer{};
  for (;;) {
    const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
    if (count == 0) {
      return text;
    }
    if (count < 0 && errno != EINTR) {
      throw_io_error(what, errno);
    }
    text.append(
        buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(0, count)));
    check(
        text.size() <= kLongestInput,
        "{}: more than {} bytes",
        what,
        kLongestInput);
  }
}

}  // namespace

File::File(fs::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {
  if (descriptor_ < 0) {
    throw_io_error(cannot("write", path_), errno);
  }
}

File File::create(const fs::path& path) {
  return {
      path,
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
}

File File::append(const fs::path& path) {
  return {
      path,
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)};
}

File File::open(const fs::path& path) {
  return {path, ::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

void File::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      throw_io_error(cannot("write", path_), errno);
    }
    bytes =
        bytes.subspan(static_cast<std::size_t>(std::max<ssize_t>(0, written)));
  }
}

void File::sync() {
  if (::fsync(descriptor_) != 0) {
    throw_io_error(cannot("write", path_), errno);
  }
}

AtomicFile::AtomicFile(const fs::path& path)
    : target_(follow_links(path)),
      file_(
          is_special(path) ? File::open(path)
                           : File(path, open_temporary(target_, temporary_))) {
  if (temporary_.empty()) {
    return;
  }
  remove_stale(folder_of(target_), temporary_prefix(target_));
  // Who could read the old file can read the new one, and nobody else.
  struct stat old {};
  if (::stat(target_.c_str(), &old) == 0) {
    ::fchmod(file_.descriptor(), old.st_mode & 07777U);
  }
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::publish() {
  if (temporary_.empty()) {
    return;
  }
  sync();
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    throw_io_error(cannot("write", file_.path()), errno);
  }
  temporary_.clear();
  const int folder =
      ::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.publish();
}

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string read_input(const fs::path& path) {
  const std::string name = path.string();
  if (name == "-" || name == "/dev/stdin") {
    return read_stream(STDIN_FILENO, "cannot read standard input");
  }
  // Open already, as by a shell's <(command), so that it cannot block for ever
  // where nobody writes.
  if (name.starts_with("/dev/fd/")) {
    return read_stream(
        static_cast<int>(parse_integer(name, name.substr(8))),
        cannot("read", path));
  }
  return read_file(path);
}

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path)) {
    throw_io_error(
        cannot("make the directory", path), error ? error.value() : ENOTDIR);
  }
}

void remove_stale_files(const fs::path& directory) {
  remove_stale(directory, "");
}

FolderLock::FolderLock(const fs::path& directory) {
  const auto lock = [&] {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
      return true;
    }
    check(
        errno != EWOULDBLOCK,
        "'{}': expected a folder that no other process works in; one does",
        directory.string());
    return false;
  };
  const auto open = [&](const fs::path& path, int flags) {
    locked_ = path;
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
      throw_io_error(cannot("work in", directory), errno);
    }
  };
  open(directory, O_RDONLY | O_DIRECTORY);
  try {
    if (!lock()) {  // NFS locks what is open for writing alone
      ::close(descriptor_);
      open(directory / ".lock", O_RDWR | O_CREAT);
      lock();
    }
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
  remove_stale_files(directory);
}

bool FolderLock::holds() const {
  return same_file(descriptor_, locked_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : locked_(std::move(other.locked_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(locked_, other.locked_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

TemporaryFolder::TemporaryFolder() {
  const char* variable = std::getenv("TMPDIR");
  const fs::path root =
      variable != nullptr && *variable != '\0' ? variable : "/tmp";
  std::string name = (root / "einforge-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw_io_error(cannot("make a temporary folder in", root), errno);
  }
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

MappedFile::MappedFile(const fs::path& path) {
  check_regular_file(path);
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw_io_error(cannot("read", path), errno);
  }
  struct stat status {};
  void* mapped = nullptr;
  bool ok = ::fstat(descriptor, &status) == 0;
  if (ok && status.st_size > 0) {
    mapped = ::mmap(
        nullptr,
        static_cast<std::size_t>(status.st_size),
        PROT_READ,
        MAP_PRIVATE,
        descriptor,
        0);
    ok = mapped != MAP_FAILED;
  }
  const int error = errno;
  ::close(descriptor);
  if (!ok) {
    throw_io_error(cannot("read", path), error);
  }
  data_ = static_cast<const std::byte*>(mapped);
  size_ = static_cast<std::size_t>(status.st_size);
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
