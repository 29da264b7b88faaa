#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "einforge/base/config.h"

namespace einforge::data {

// Consecutive tokens in a file that `data import` found and left in its place.
struct FileInfo {
  std::string path;
  std::int64_t bytes = 0;
  std::int64_t offset = 0;
  std::int64_t tokens = 0;
  std::string hash;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("path", self.path, "absolute path");
    visit("bytes", self.bytes, "size of the whole file");
    visit("offset", self.offset, "bytes before the first of these tokens");
    visit("tokens", self.tokens, "tokens from there on");
    visit("hash", self.hash, "128-bit XXH3 of these tokens");
  }
  bool operator==(const FileInfo&) const = default;
};

// One of the two sides of a data folder.
struct SplitInfo {
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::string hash;
  std::vector<FileInfo> files;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("tokens", self.tokens, "tokens of this side");
    visit("documents", self.documents, "documents they come from");
    visit("hash", self.hash, "128-bit XXH3 of all its bytes, hexadecimal");
    visit(
        "files",
        self.files,
        "where they lie, one after another; empty: in the folder's own file");
  }
  bool operator==(const SplitInfo&) const = default;
};

// One input as it was named on the command line.
struct SourceInfo {
  std::string path;
  std::int64_t files = 0;
  std::int64_t bytes = 0;
  std::string hash;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("path", self.path, "file, folder, or - for standard input");
    visit("files", self.files, "files read");
    visit("bytes", self.bytes, "bytes read");
    visit("hash", self.hash, "128-bit XXH3 of all its bytes in order");
  }
  bool operator==(const SourceInfo&) const = default;
};

// Characters that the alphabet lacks (tokenizer.h says what became of them).
struct ReplacedInfo {
  std::int64_t dropped = 0;
  std::int64_t transliterated = 0;
  std::int64_t unknown = 0;
  std::int64_t invalid_bytes = 0;
  std::vector<std::string> most_frequent;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("dropped", self.dropped, "characters left out");
    visit("transliterated", self.transliterated, "characters spelled in ASCII");
    visit("unknown", self.unknown, "characters that became '?'");
    visit("invalid_bytes", self.invalid_bytes, "bytes that are not UTF-8");
    visit(
        "most_frequent",
        self.most_frequent,
        "the most frequent of all these, as 'U+00E9 12'");
  }
  bool operator==(const ReplacedInfo&) const = default;
};

// The tokeniser that a data folder has a copy of (codec.h).
struct TokenizerInfo {
  std::string file;
  std::string hash;
  std::string pattern;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("file", self.file, "its file in the folder; empty: none");
    visit("hash", self.hash, "128-bit XXH3 of that file");
    visit("pattern", self.pattern, "of a tiktoken file: how text is cut");
  }
  bool operator==(const TokenizerInfo&) const = default;
};

// meta.json of a data folder: what its two sides hold.
struct Metadata {
  static constexpr const char* kFormat = "einforge-tokens";
  static constexpr std::int64_t kVersion = 2;
  // Had none of `files`, `end_of_text` and `tokenizer`.
  static constexpr std::int64_t kOldestVersion = 1;
  // What an embedding of it is not too large for.
  static constexpr std::int64_t kLargestVocabulary = std::int64_t{1} << 24;
  // `tokens` of a folder that only has numbers.
  static constexpr const char* kIds = "ids";

  std::string format = kFormat;
  std::int64_t version = kVersion;
  std::string tokens;
  std::int64_t vocab_size = 0;
  std::string symbols;
  std::string dtype = "uint16";
  std::int64_t end_of_text = -1;
  TokenizerInfo tokenizer;
  SplitInfo train;
  SplitInfo validation;
  double val_share = 0;
  std::string document_separator;
  std::uint64_t seed = 0;
  std::vector<SourceInfo> sources;
  ReplacedInfo replaced;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("format", self.format, "always einforge-tokens");
    visit("version", self.version, "of this format");
    visit(
        "tokens",
        self.tokens,
        "chars96, bytes, tokenizer.json, tiktoken, sentencepiece or ids");
    visit("vocab_size", self.vocab_size, "tokens are 0 to vocab_size - 1");
    visit("symbols", self.symbols, "character of each token of chars96");
    visit("dtype", self.dtype, "of a token, little-endian");
    visit("end_of_text", self.end_of_text, "ends documents; -1: none is known");
    visit("tokenizer", self.tokenizer, "of tokenizer.json and the like");
    visit("train", self.train, "train.bin");
    visit("validation", self.validation, "val.bin");
    visit("val_share", self.val_share, "share asked for val.bin");
    visit(
        "document_separator", self.document_separator, "what ends a document");
    visit("seed", self.seed, "of the split");
    visit("sources", self.sources, "what was read");
    visit("replaced", self.replaced, "characters outside the alphabet");
  }
  bool operator==(const Metadata&) const = default;
};

// The JSON of a meta.json, einforge's or not. Throws base::InvalidInput when it
// is none, too long or too deep.
base::Json read_metadata_file(const std::filesystem::path& path);
bool is_metadata(const base::Json& json);
// Whether it is of a folder that `data import` made.
bool is_imported(const base::Json& json);

// Bytes of a token. Throws base::InvalidInput unless it is uint8, uint16,
// uint32 or uint64.
std::int64_t token_bytes(const std::string& dtype);

// Reads and checks meta.json of a data folder. Throws base::InvalidInput when
// the folder or the file is missing, foreign, damaged or of a newer version.
Metadata read_metadata(const std::filesystem::path& folder);

}  // namespace einforge::data
