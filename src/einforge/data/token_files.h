#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "einforge/base/files.h"
#include "einforge/data/metadata.h"

namespace einforge::data {

// One file of tokens, memory-mapped: raw little-endian uint16 without a header,
// as nanoGPT's numpy.memmap expects.
class TokenFile {
 public:
  // Throws base::InvalidInput when its size is not that of so many tokens.
  TokenFile(const std::filesystem::path& path, std::int64_t tokens);

  std::span<const std::uint16_t> tokens() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  base::MappedFile file_;
};

// The token files of a data folder: any size, no copy, shared by all processes
// that read them. They belong together, whoever replaces them meanwhile.
struct TokenFiles {
  // Throws base::InvalidInput when the folder is missing or damaged (a file
  // whose size is not what meta.json says).
  explicit TokenFiles(const std::filesystem::path& folder);

  Metadata metadata;
  TokenFile train;
  TokenFile validation;

 private:
  TokenFiles(const std::filesystem::path& folder, Metadata read);

  static TokenFiles open(const std::filesystem::path& folder);
};

}  // namespace einforge::data
