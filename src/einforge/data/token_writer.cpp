#include "einforge/data/token_writer.h"

#include <cstddef>
#include <vector>

namespace einforge::data {
namespace {

// Held back so that a disk sees megabytes, not documents.
constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

}  // namespace

TokenWriter::TokenWriter(const std::filesystem::path& path, std::int64_t width)
    : width_(width), file_(base::File::create(path)) {}

template <typename T>
void TokenWriter::append(std::span<const T> tokens) {
  buffer_.append(
      reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
}

void TokenWriter::write(std::span<const std::uint16_t> tokens) {
  if (width_ == sizeof(std::uint16_t)) {
    append(tokens);
  } else {
    append(std::span<const std::uint32_t>(
        std::vector<std::uint32_t>(tokens.begin(), tokens.end())));
  }
  tokens_ += std::ssize(tokens);
  if (buffer_.size() >= kBufferBytes) {
    flush();
  }
}

void TokenWriter::write(std::span<const std::uint32_t> tokens) {
  if (width_ == sizeof(std::uint32_t)) {
    append(tokens);
  } else {
    for (const std::uint32_t token : tokens) {
      const auto narrow = static_cast<std::uint16_t>(token);
      append(std::span(&narrow, 1));
    }
  }
  tokens_ += std::ssize(tokens);
  if (buffer_.size() >= kBufferBytes) {
    flush();
  }
}

void TokenWriter::flush() {
  hasher_.update(buffer_);
  file_.write(buffer_);
  buffer_.clear();
}

void TokenWriter::sync() {
  flush();
  file_.sync();
}

}  // namespace einforge::data
