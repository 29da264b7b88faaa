#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "einforge/data/metadata.h"

namespace einforge::data {

// The files that paths or patterns (shards/*.bin) stand for, one pattern after
// another, each in the order of the names. Throws base::InvalidInput for one
// that stands for none.
std::vector<std::filesystem::path> find_token_files(
    const std::vector<std::string>& patterns);

struct ImportOptions {
  // Token files or patterns of them (shards/*.bin), one stream in this order.
  std::vector<std::string> files;
  // Those of the validation side; without them `val_share` of `files`.
  std::vector<std::string> validation;
  std::filesystem::path out;
  double val_share = 0.05;
  // 0 and -1: what the files imply, or the tokenizer.
  std::int64_t vocab_size = 0;
  std::int64_t end_of_text = -1;
  // Of files without a header: uint16 or uint32; empty: by the vocabulary.
  std::string dtype;
  // tokenizer.json, FILE.tiktoken or FILE.model that made the tokens; or empty.
  std::string tokenizer;
  std::string pattern;
  bool progress = true;
};

// Makes a data folder of token files that other programs wrote
// (foreign_tokens.h): they stay where they are, and the folder has meta.json
// with their paths and hashes, and the tokenizer.
//
// Without files for validation, `val_share` of the stream is taken from the end
// of each sixteenth of it, from one document boundary to another. A document
// ends after an end-of-text token or, where the stream begins with one, before
// it; in Megatron's files, where their index says.
//
// Reads all of it once. Throws base::InvalidInput that names the file for what
// is damaged or truncated, and the place in it for a token outside the
// vocabulary.
Metadata import_tokens(const ImportOptions& options);

}  // namespace einforge::data
