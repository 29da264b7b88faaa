#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

// Token files of other programs: where the tokens lie in their bytes. Nothing
// is unpickled or executed. All throw base::InvalidInput with one line, without
// the file's name, for what is damaged, truncated or of another kind.
namespace einforge::data {

struct TokenLayout {
  std::string format;
  std::int64_t offset = 0;  // bytes before the tokens, which go to the end
  std::int64_t tokens = 0;
  std::int64_t width = 2;  // bytes of a token, little-endian
  bool is_signed = false;
  // What the format implies, if nothing else is said; 0 and -1: nothing.
  std::int64_t vocab_size = 0;
  std::int64_t end_of_text = -1;
};

// Whether it starts with the magic number of a shard, or with 256 int32 that
// look like the header of an unknown one.
bool has_shard_header(std::span<const std::byte> bytes);

// A shard of llm.c or modded-nanogpt: 256 int32 (magic, version, tokens), then
// tokens. Magic 20240520, version 1: uint16, of GPT-2. Magic 20240801, version
// 7 (or 1): uint32, of Llama 3.
TokenLayout read_shard(std::span<const std::byte> bytes);

// nanoGPT's: tokens of `width` bytes without a header.
TokenLayout read_headerless(
    std::span<const std::byte> bytes, std::int64_t width);

// NumPy's .npy, version 1 to 3: an array of integers in C order, of any shape.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
TokenLayout read_npy(std::span<const std::byte> bytes);

// Megatron's .idx beside a .bin.
class MegatronIndex {
 public:
  // `index` outlives it; `data_bytes` is the size of the .bin.
  MegatronIndex(std::span<const std::byte> index, std::int64_t data_bytes);

  const TokenLayout& layout() const { return layout_; }
  // The first document boundary at or after a place in [0, tokens]: where one
  // begins, or the end.
  std::int64_t boundary(std::int64_t place) const;
  // Documents that begin in [begin, end).
  std::int64_t documents(std::int64_t begin, std::int64_t end) const;

 private:
  std::int64_t document_start(std::int64_t document) const;
  std::int64_t first_document_from(std::int64_t place) const;

  TokenLayout layout_;
  std::span<const std::byte> pointers_;   // int64: bytes before a sequence
  std::span<const std::byte> documents_;  // int64: first sequence
  std::int64_t sequence_count_ = 0;
  std::int64_t document_count_ = 0;
};

}  // namespace einforge::data
