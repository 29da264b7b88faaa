#include "einforge/data/token_writer.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace einforge::data {
namespace {

// Tokens held back so that a disk sees megabytes, not documents.
constexpr std::size_t kBufferTokens = std::size_t{1} << 19;

}  // namespace

TokenWriter::TokenWriter(
    const std::filesystem::path& path, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), file_(base::File::create(path)) {}

void TokenWriter::write(std::string_view text) {
  tokenizer_.encode_symbols(text, buffer_);
  tokens_ += static_cast<std::int64_t>(text.size());
  if (buffer_.size() >= kBufferTokens) {
    flush();
  }
}

void TokenWriter::flush() {
  const std::string_view bytes(
      reinterpret_cast<const char*>(buffer_.data()), buffer_.size() * 2);
  hasher_.update(bytes);
  file_.write(bytes);
  buffer_.clear();
}

void TokenWriter::sync() {
  flush();
  file_.sync();
}

}  // namespace einforge::data
