#include "einforge/data/metadata.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {
namespace {

void validate_side(const SplitInfo& side, const Metadata& metadata) {
  if (side.files.empty()) {
    return;
  }
  const std::int64_t bytes = token_bytes(metadata.dtype);
  std::int64_t tokens = 0;
  for (const FileInfo& file : side.files) {
    // Division: nothing of it can overflow.
    base::check(
        file.offset >= 0 && file.tokens > 0 && file.bytes >= file.offset &&
            file.tokens <= (file.bytes - file.offset) / bytes,
        "'{}': expected tokens within its {} bytes; got {} from byte {} on",
        file.path,
        file.bytes,
        file.tokens,
        file.offset);
    tokens += std::min(file.tokens, side.tokens - tokens + 1);
  }
  base::check(
      tokens == side.tokens,
      "expected the {} tokens that its files have together; got another sum",
      side.tokens);
}

void validate(const Metadata& metadata) {
  if (is_alphabet(metadata.tokens)) {
    const Tokenizer tokenizer(metadata.tokens);
    base::check(
        metadata.vocab_size == tokenizer.vocab_size(),
        "expected vocab_size {} for {}; got {}",
        tokenizer.vocab_size(),
        metadata.tokens,
        metadata.vocab_size);
    base::check(
        metadata.symbols == tokenizer.symbols(),
        "symbols are not those of {}",
        metadata.tokens);
  } else {
    const std::array<std::string, 6> known = {
        "chars96",
        "bytes",
        "tokenizer.json",
        "tiktoken",
        "sentencepiece",
        Metadata::kIds};
    base::check(
        std::ranges::count(known, metadata.tokens) > 0,
        "tokens: expected one of {}; got '{}'{}",
        fmt::join(known, ", "),
        metadata.tokens,
        base::suggestion(metadata.tokens, known));
    base::check(
        metadata.vocab_size > 0 &&
            metadata.vocab_size <= Metadata::kLargestVocabulary,
        "expected vocab_size from 1 to {}; got {}",
        Metadata::kLargestVocabulary,
        metadata.vocab_size);
  }
  token_bytes(metadata.dtype);
  base::check(
      metadata.end_of_text >= -1 && metadata.end_of_text < metadata.vocab_size,
      "expected end_of_text below {}; got {}",
      metadata.vocab_size,
      metadata.end_of_text);
  base::check(
      metadata.tokenizer.file.find('/') == std::string::npos,
      "expected a tokenizer file in the folder; got '{}'",
      metadata.tokenizer.file);
  base::check(
      metadata.train.tokens > 0 && metadata.validation.tokens > 0,
      "expected token counts above 0; got {} and {}",
      metadata.train.tokens,
      metadata.validation.tokens);
  base::check(
      metadata.train.files.empty() == metadata.validation.files.empty(),
      "expected files of both sides or of none");
  validate_side(metadata.train, metadata);
  validate_side(metadata.validation, metadata);
}

}  // namespace

base::Json read_metadata_file(const std::filesystem::path& path) {
  constexpr std::size_t kLongest = 16'000'000;  // bytes
  const std::string text = base::read_file(path);
  base::check(
      text.size() <= kLongest,
      "'{}': expected at most {} bytes; got {}",
      path.string(),
      kLongest,
      text.size());
  return base::parse_json(text, fmt::format("'{}'", path.string()));
}

bool is_metadata(const base::Json& json) {
  return json.is_object() && json.contains("format") &&
         json["format"] == Metadata::kFormat && json.contains("version") &&
         json["version"].is_number_integer();
}

bool is_imported(const base::Json& json) {
  const auto train = json.find("train");
  return train != json.end() && train->is_object() &&
         !train->value("files", base::Json::array()).empty();
}

std::int64_t token_bytes(const std::string& dtype) {
  for (const std::int64_t bytes : {1, 2, 4, 8}) {
    if (dtype == fmt::format("uint{}", 8 * bytes)) {
      return bytes;
    }
  }
  throw base::InvalidInput(fmt::format(
      "expected dtype uint8, uint16, uint32 or uint64; got '{}'", dtype));
}

namespace {

Metadata read_once(const std::filesystem::path& folder) {
  const std::filesystem::path path = find_data_file(folder, "meta.json");
  std::error_code ignored;
  base::check(
      std::filesystem::is_directory(folder, ignored),
      "'{}': expected a folder made by `einforge data prepare`; got {}",
      folder.string(),
      std::filesystem::exists(folder, ignored) ? "a file" : "nothing there");
  base::check(
      std::filesystem::exists(path, ignored),
      "'{}': expected a folder made by `einforge data prepare`; it has no "
      "meta.json",
      folder.string());
  const base::Json json = read_metadata_file(path);
  base::check(
      is_metadata(json),
      "'{}': expected einforge's metadata; got something else",
      path.string());
  // Before the keys: a newer version may have other ones.
  base::check(
      json["version"] >= Metadata::kOldestVersion &&
          json["version"] <= Metadata::kVersion,
      "'{}': expected version {} to {}; got {}: made by another einforge, run "
      "`data prepare` again",
      path.string(),
      Metadata::kOldestVersion,
      Metadata::kVersion,
      base::dump_json(json["version"]));
  Metadata metadata;
  try {
    base::update_from_json(metadata, json);
    validate(metadata);
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(
        fmt::format("'{}': {}", path.string(), error.what()));
  }
  return metadata;
}

}  // namespace

Metadata read_metadata(const std::filesystem::path& folder) {
  return read_unreplaced(folder, [&] { return read_once(folder); });
}

}  // namespace einforge::data
