#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/data/metadata.h"

namespace einforge::data {

// Copies little-endian unsigned tokens of `width` bytes (1, 2, 4 or 8) each;
// `bytes` holds out.size() of them, at any alignment. What is beyond 2^63 - 1
// becomes negative.
void widen_tokens(
    std::span<const std::byte> bytes,
    std::int64_t width,
    std::span<std::int64_t> out);

// One side of a data folder: tokens of one or many files, memory-mapped, as one
// stream. Any size, no copy, shared by all processes that read them.
class TokenStream {
 public:
  // Consecutive tokens in one file.
  struct Piece {
    std::filesystem::path path;
    std::int64_t offset = 0;  // bytes of the file before them
    std::int64_t begin = 0;   // tokens of the stream before them
    std::span<const std::byte> bytes;
    std::string hash;  // that meta.json has
  };

  // The files of `side` or, where it names none, `own`.
  // Throws base::InvalidInput when one is missing or not of its size.
  TokenStream(
      const SplitInfo& side,
      const std::filesystem::path& own,
      const Metadata& metadata);

  // Of bytes in memory that outlive it; `begin` is not looked at.
  TokenStream(
      std::vector<Piece> pieces, std::int64_t width, std::int64_t vocab_size);

  std::int64_t size() const { return size_; }
  std::int64_t width() const { return width_; }  // bytes of a token
  const std::vector<Piece>& pieces() const { return pieces_; }

  // Copies out.size() tokens from `begin` on; there are so many. Throws
  // base::InvalidInput that names file and place of a token outside the
  // vocabulary, which an embedding would read out of bounds.
  void read(std::int64_t begin, std::span<std::int64_t> out) const;

 private:
  void add(const FileInfo& file);
  void append(Piece piece);

  std::int64_t width_;
  std::int64_t vocab_size_;
  std::int64_t size_ = 0;
  std::vector<base::MappedFile> files_;
  std::vector<Piece> pieces_;
};

// The token files of a data folder. They belong together, whoever replaces them
// meanwhile.
struct TokenFiles {
  // Throws base::InvalidInput when the folder is missing or damaged (a file
  // whose size is not what meta.json says).
  explicit TokenFiles(const std::filesystem::path& folder);

  Metadata metadata;
  TokenStream train;
  TokenStream validation;

 private:
  TokenFiles(const std::filesystem::path& folder, Metadata read);

  static TokenFiles open(const std::filesystem::path& folder);
};

}  // namespace einforge::data
