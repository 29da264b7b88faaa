#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "einforge/data/metadata.h"

namespace einforge::data {

struct PrepareOptions {
  // Files, folders (read recursively, in sorted order; hidden and README files
  // are left out) or "-" for standard input.
  std::vector<std::string> inputs;
  std::filesystem::path out;
  // An alphabet, chars96 or bytes, or the file of a tokenizer: tokenizer.json,
  // FILE.tiktoken, FILE.model.
  std::string tokens = "chars96";
  // Of a tokenizer: see describe_tokenizer().
  std::string pattern;
  std::int64_t vocab_size = 0;
  std::int64_t end_of_text = -1;
  // What ends a document: blank-line, line or file.
  std::string document_separator = "blank-line";
  // Share of documents that goes to val.bin, in (0, 1).
  double val_share = 0.05;
  std::uint64_t seed = 0;
  bool progress = true;
};

// Turns text of any size into a data folder: train.bin, val.bin, meta.json and
// the tokenizer's file.
//
// One pass, with memory bounded by a chunk. With a tokenizer each document ends
// with its end-of-text token, where it has one, and bytes that are not UTF-8
// become U+FFFD. A document goes to val.bin when
// the seeded hash of its first 32,768 symbols says so, without what copies of
// it may differ in (document_key.h): the split depends on nothing else, and
// copies of a text land on the same side.
//
// The new files replace old ones only when all are complete and on disk; until
// then, whatever happens, a data folder that was there stays as it was.
//
// Throws base::InvalidInput for bad options, missing, empty or binary input,
// a folder that is not a data folder's to replace and for a split that leaves
// a side empty; base::IoError when it cannot read or write.
Metadata prepare(const PrepareOptions& options);

}  // namespace einforge::data
