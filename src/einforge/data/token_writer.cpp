#include "einforge/data/token_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "einforge/base/error.h"

namespace einforge::data {
namespace {

// Tokens held back so that a disk sees megabytes, not documents.
constexpr std::size_t kBufferTokens = std::size_t{1} << 19;

}  // namespace

TokenWriter::TokenWriter(const std::filesystem::path& path)
    : path_(path), temporary_(std::filesystem::path(path).concat(".tmp")) {
  descriptor_ =
      ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    base::throw_io_error(
        fmt::format("cannot write '{}'", path_.string()), errno);
  }
  // A temporary file that a killed process left has no lock and is reused.
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(descriptor_);
    if (error == EWOULDBLOCK) {
      throw base::IoError(fmt::format(
          "cannot write '{}': another process is writing it", path_.string()));
    }
    base::throw_io_error(
        fmt::format("cannot lock '{}'", temporary_.string()), error);
  }
  if (::ftruncate(descriptor_, 0) != 0) {
    const int error = errno;
    ::close(descriptor_);
    base::throw_io_error(
        fmt::format("cannot write '{}'", path_.string()), error);
  }
}

TokenWriter::~TokenWriter() {
  if (!published_) {
    ::unlink(temporary_.c_str());
  }
  ::close(descriptor_);
}

void TokenWriter::write(std::span<const std::uint16_t> tokens) {
  tokens_ += static_cast<std::int64_t>(tokens.size());
  buffer_.insert(buffer_.end(), tokens.begin(), tokens.end());
  if (buffer_.size() >= kBufferTokens) {
    flush();
  }
}

void TokenWriter::flush() {
  std::string_view bytes(
      reinterpret_cast<const char*>(buffer_.data()), buffer_.size() * 2);
  hasher_.update(bytes);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) {
      base::throw_io_error(
          fmt::format("cannot write '{}'", path_.string()), errno);
    }
    bytes.remove_prefix(written < 0 ? 0 : static_cast<std::size_t>(written));
  }
  buffer_.clear();
}

void TokenWriter::sync() {
  flush();
  if (::fsync(descriptor_) != 0) {
    base::throw_io_error(
        fmt::format("cannot write '{}'", path_.string()), errno);
  }
}

void TokenWriter::publish() {
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    base::throw_io_error(
        fmt::format("cannot write '{}'", path_.string()), errno);
  }
  published_ = true;
}

}  // namespace einforge::data
