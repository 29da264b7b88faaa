#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "einforge/base/hash.h"

namespace einforge::data {

// Writes a token file beside its place, as PATH.tmp, and puts it there in one
// step when it is complete. A writer that goes before that leaves nothing.
// All members throw base::IoError when the disk refuses.
class TokenWriter {
 public:
  // Throws base::IoError too when another process is writing the same file.
  explicit TokenWriter(const std::filesystem::path& path);
  TokenWriter(const TokenWriter&) = delete;
  TokenWriter& operator=(const TokenWriter&) = delete;
  ~TokenWriter();

  void write(std::span<const std::uint16_t> tokens);
  // All that was written is on the disk when this returns.
  void sync();
  // Replaces the file at the path given to the constructor.
  void publish();

  std::int64_t tokens() const { return tokens_; }
  std::string hash() const { return hasher_.hex(); }

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  bool published_ = false;
  std::vector<std::uint16_t> buffer_;
  std::int64_t tokens_ = 0;
  base::Hasher hasher_;
};

}  // namespace einforge::data
