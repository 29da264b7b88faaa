#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "einforge/data/prepare.h"
#include "einforge/data/token_files.h"
#include "einforge/data/tokenizer.h"
#include "tests/data/temporary_folder.h"

namespace einforge::data {

// From FOLDER/in to FOLDER/out.
inline PrepareOptions options_for(const TemporaryFolder& folder) {
  PrepareOptions options;
  options.inputs = {folder.path() / "in"};
  options.out = folder.path() / "out";
  options.progress = false;
  return options;
}

inline std::vector<std::int64_t> tokens_of(const TokenStream& stream) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);
  return tokens;
}

inline std::string text_of(const TokenStream& stream, const char* name) {
  return Tokenizer(name).decode(tokens_of(stream));
}

// `count` different documents of a few lines each.
inline std::vector<std::string> make_documents(int count) {
  std::vector<std::string> documents;
  for (int i = 0; i < count; ++i) {
    documents.push_back(
        "document " + std::to_string(i) + "\nsays " +
        std::string(static_cast<std::size_t>(i % 40), 'x') + "\n\n");
  }
  return documents;
}

inline std::string concatenate(const std::vector<std::string>& documents) {
  std::string text;
  for (const std::string& document : documents) {
    text += document;
  }
  return text;
}

}  // namespace einforge::data
