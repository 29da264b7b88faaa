#include "einforge/data/token_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/data/staged_folder.h"

namespace einforge::data {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "token files are little-endian and read in place");

template <typename T>
void widen(std::span<const std::byte> bytes, std::span<std::int64_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T token{};
    std::memcpy(&token, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<std::int64_t>(token);
  }
}

}  // namespace

void widen_tokens(
    std::span<const std::byte> bytes,
    std::int64_t width,
    std::span<std::int64_t> out) {
  switch (width) {
    case 1:
      return widen<std::uint8_t>(bytes, out);
    case 2:
      return widen<std::uint16_t>(bytes, out);
    case 4:
      return widen<std::uint32_t>(bytes, out);
    default:
      return widen<std::uint64_t>(bytes, out);
  }
}

TokenStream::TokenStream(
    const SplitInfo& side,
    const std::filesystem::path& own,
    const Metadata& metadata)
    : width_(token_bytes(metadata.dtype)), vocab_size_(metadata.vocab_size) {
  if (side.files.empty()) {
    // A damaged count times the width may be beyond 2^63.
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    add(
        {own,
         side.tokens > kMost / width_ ? kMost : side.tokens * width_,
         0,
         side.tokens,
         side.hash});
  }
  for (const FileInfo& file : side.files) {
    add(file);
  }
}

void TokenStream::add(const FileInfo& file) {
  if (pieces_.empty() || pieces_.back().path != file.path) {
    files_.emplace_back(file.path);
  }
  const auto bytes = files_.back().bytes();
  base::check(
      static_cast<std::int64_t>(bytes.size()) == file.bytes,
      "'{}': expected {} bytes, as meta.json says; got {}: truncated or not "
      "its file, prepare or import it again",
      file.path,
      file.bytes,
      bytes.size());
  append(
      {file.path,
       file.offset,
       0,
       bytes.subspan(
           static_cast<std::size_t>(file.offset),
           static_cast<std::size_t>(file.tokens * width_)),
       file.hash});
}

TokenStream::TokenStream(
    std::vector<Piece> pieces, std::int64_t width, std::int64_t vocab_size)
    : width_(width), vocab_size_(vocab_size) {
  for (Piece& piece : pieces) {
    append(std::move(piece));
  }
}

void TokenStream::append(Piece piece) {
  piece.begin = size_;
  size_ += static_cast<std::int64_t>(piece.bytes.size()) / width_;
  pieces_.push_back(std::move(piece));
}

void TokenStream::read(std::int64_t begin, std::span<std::int64_t> out) const {
  if (out.empty()) {
    return;
  }
  auto piece = std::ranges::upper_bound(pieces_, begin, {}, &Piece::begin) - 1;
  for (; !out.empty(); ++piece) {
    const auto from = static_cast<std::size_t>((begin - piece->begin) * width_);
    const auto bytes = piece->bytes.subspan(from);
    const std::size_t count =
        std::min(out.size(), bytes.size() / static_cast<std::size_t>(width_));
    const auto read = out.first(count);
    widen_tokens(bytes, width_, read);
    const auto bad = std::ranges::find_if(read, [&](std::int64_t token) {
      return token < 0 || token >= vocab_size_;
    });
    if (bad != read.end()) {
      const std::int64_t byte = piece->offset +
                                static_cast<std::int64_t>(from) +
                                (bad - read.begin()) * width_;
      throw base::InvalidInput(fmt::format(
          "'{}': expected tokens below {}; got {} at byte {}",
          piece->path.string(),
          vocab_size_,
          static_cast<std::uint64_t>(*bad),
          byte));
    }
    out = out.subspan(count);
    begin += static_cast<std::int64_t>(count);
  }
}

TokenFiles::TokenFiles(const std::filesystem::path& folder)
    : TokenFiles(open(folder)) {}

TokenFiles::TokenFiles(const std::filesystem::path& folder, Metadata read)
    : metadata(std::move(read)),
      train(metadata.train, find_data_file(folder, "train.bin"), metadata),
      validation(
          metadata.validation, find_data_file(folder, "val.bin"), metadata) {}

TokenFiles TokenFiles::open(const std::filesystem::path& folder) {
  return read_unreplaced(
      folder, [&] { return TokenFiles(folder, read_metadata(folder)); });
}

}  // namespace einforge::data
