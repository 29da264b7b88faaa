#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"

namespace einforge::data {

// Writes a new token file. All members throw base::IoError when the disk
// refuses.
class TokenWriter {
 public:
  // Of tokens of `width` bytes: 2 or 4.
  TokenWriter(const std::filesystem::path& path, std::int64_t width);
  // Tokens that fit into 2 bytes.
  void write(std::span<const std::uint16_t> tokens);
  void write(std::span<const std::uint32_t> tokens);
  // All that was written is on the disk when this returns.
  void sync();

  // Any thread may ask.
  std::int64_t tokens() const { return tokens_; }
  std::string hash() const { return hasher_.hex(); }

 private:
  template <typename T>
  void append(std::span<const T> tokens);
  void flush();

  std::int64_t width_;
  base::File file_;
  std::string buffer_;
  std::atomic<std::int64_t> tokens_ = 0;
  base::Hasher hasher_;
};

}  // namespace einforge::data
