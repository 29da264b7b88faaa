#include "einforge/data/metadata.h"

#include <fmt/format.h>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {
namespace {

void validate(const Metadata& metadata) {
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
  base::check(
      metadata.dtype == "uint16",
      "expected dtype uint16; got '{}'",
      metadata.dtype);
  base::check(
      metadata.train.tokens > 0 && metadata.validation.tokens > 0,
      "expected token counts above 0; got {} and {}",
      metadata.train.tokens,
      metadata.validation.tokens);
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

Metadata read_metadata(const std::filesystem::path& folder) {
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
      json["version"] == Metadata::kVersion,
      "'{}': expected version {}; got {}: made by another einforge, run `data "
      "prepare` again",
      path.string(),
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

}  // namespace einforge::data
