#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {

// Writes a new token file. All members throw base::IoError when the disk
// refuses.
class TokenWriter {
 public:
  TokenWriter(const std::filesystem::path& path, const Tokenizer& tokenizer);
  // `text` holds symbols of the tokenizer's alphabet alone.
  void write(std::string_view text);
  // All that was written is on the disk when this returns.
  void sync();

  std::int64_t tokens() const { return tokens_; }
  std::string hash() const { return hasher_.hex(); }

 private:
  void flush();

  const Tokenizer& tokenizer_;
  base::File file_;
  std::vector<std::uint16_t> buffer_;
  std::int64_t tokens_ = 0;
  base::Hasher hasher_;
};

}  // namespace einforge::data
