#include "einforge/data/metadata.h"

#include <fmt/format.h>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
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

Metadata read_metadata(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "meta.json";
  base::check(
      std::filesystem::is_directory(folder),
      "'{}': expected a folder made by `einforge data prepare`; got {}",
      folder.string(),
      std::filesystem::exists(folder) ? "a file" : "nothing there");
  base::check(
      std::filesystem::exists(path),
      "'{}': expected a folder made by `einforge data prepare`; it has no "
      "meta.json",
      folder.string());
  const base::Json json = base::Json::parse(
      base::read_file(path), nullptr, /*allow_exceptions=*/false);
  base::check(
      json.is_object() && json.contains("format") &&
          json["format"] == Metadata::kFormat && json.contains("version") &&
          json["version"].is_number_integer(),
      "'{}': expected einforge's metadata; got something else",
      path.string());
  // Before the keys: a newer version may have other ones.
  base::check(
      json["version"] == Metadata::kVersion,
      "'{}': expected version {}; got {}: made by another einforge, run `data "
      "prepare` again",
      path.string(),
      Metadata::kVersion,
      json["version"].dump());
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
