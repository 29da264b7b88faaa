#include "einforge/data/codec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/text.h"
#include "einforge/data/library_tokenizer.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {
namespace {

class AlphabetCodec : public Codec {
 public:
  explicit AlphabetCodec(const std::string& name) : tokenizer_(name) {}

  std::vector<std::int64_t> encode(std::string_view text) override {
    return tokenizer_.encode(text);
  }
  std::string decode(std::span<const std::int64_t> tokens) override {
    return tokenizer_.decode(tokens);
  }

 private:
  Tokenizer tokenizer_;
};

class IdsCodec : public Codec {
 public:
  std::vector<std::int64_t> encode(std::string_view text) override {
    std::vector<std::int64_t> tokens;
    std::string words(text);
    for (char& symbol : words) {
      symbol = symbol == '\n' || symbol == '\t' ? ' ' : symbol;
    }
    for (const std::string& word : base::split(words, ' ')) {
      if (!word.empty()) {
        tokens.push_back(base::parse_integer(
            "prompt: expected tokens as numbers (the data has no tokenizer)",
            word));
      }
    }
    return tokens;
  }
  std::string decode(std::span<const std::int64_t> tokens) override {
    return tokens.empty() ? "" : fmt::format("{} ", fmt::join(tokens, " "));
  }
};

}  // namespace

std::string read_tokenizer(
    const TokenizerInfo& tokenizer, const std::filesystem::path& folder) {
  return read_unreplaced(folder, [&] {
    const std::filesystem::path file =
        find_data_file(folder, tokenizer.file.c_str());
    std::string bytes = base::read_file(file);
    const std::string hash = base::hash_hex(bytes);
    base::check(
        hash == tokenizer.hash,
        "'{}': expected the tokenizer of hash {}; got {}: changed since it was "
        "copied there",
        file.string(),
        tokenizer.hash,
        hash);
    return bytes;
  });
}

std::unique_ptr<Codec> open_codec(
    const std::string& tokens,
    const TokenizerInfo& tokenizer,
    const std::filesystem::path& folder) {
  if (tokens == Metadata::kIds) {
    return std::make_unique<IdsCodec>();
  }
  if (!is_library_tokenizer(tokens)) {
    return std::make_unique<AlphabetCodec>(tokens);
  }
  return read_unreplaced(folder, [&] {
    read_tokenizer(tokenizer, folder);
    return std::make_unique<LibraryTokenizer>(
        tokens,
        find_data_file(folder, tokenizer.file.c_str()),
        tokenizer.pattern);
  });
}

}  // namespace einforge::data
