#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "einforge/data/prepare.h"
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

inline std::string text_of(
    std::span<const std::uint16_t> tokens, const char* name) {
  return Tokenizer(name).decode(
      std::vector<std::int64_t>(tokens.begin(), tokens.end()));
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
