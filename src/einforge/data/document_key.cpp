#include "einforge/data/document_key.h"

#include <algorithm>
#include <vector>

#include "einforge/base/hash.h"
#include "einforge/data/document_splitter.h"

namespace einforge::data {

DocumentKey::DocumentKey(
    const Tokenizer& tokenizer, const std::string& separator)
    : tokenizer_(tokenizer), end_(separator == "blank-line" ? "\n\n" : "\n") {}

void DocumentKey::add(std::string_view text) {
  for (; !text.empty() && !complete();
       text.remove_prefix(std::min(kSymbols, text.size()))) {
    std::string composed;
    composed_.add(text.substr(0, kSymbols), composed);
    add_composed(composed);
  }
}

void DocumentKey::add_composed(std::string_view text) {
  while (!text.empty() && !complete()) {
    const std::size_t end = find_line_end(text, 0);
    const std::string_view line = text.substr(0, end);
    const std::size_t length = line.find_last_not_of(" \t") + 1;  // npos + 1: 0
    if (length > 0) {
      if (line_is_blank_ && !lines_.empty()) {
        lines_ += '\n';
      }
      line_is_blank_ = false;
      lines_ += blanks_;
      lines_ += line.substr(0, length);
      blanks_.clear();
    }
    if (blanks_.size() < kSymbols) {
      blanks_ += line.substr(length);
    }
    if (end < text.size()) {
      line_is_blank_ = true;
      blanks_.clear();
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

double DocumentKey::finish(std::uint64_t seed) {
  std::string rest;
  composed_.finish(rest);
  add_composed(rest);
  lines_ += end_;
  std::vector<std::uint16_t> tokens;
  tokenizer_.encode_symbols(
      std::string_view(lines_).substr(0, kSymbols), tokens);
  const std::uint64_t hash = base::hash64(
      {reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2}, seed);
  lines_.clear();
  blanks_.clear();
  line_is_blank_ = true;
  return static_cast<double>(hash >> 11U) * 0x1p-53;
}

void DocumentKey::Composed::on_ascii(std::string_view run, std::string& text) {
  text += run;
}

void DocumentKey::Composed::on_wide(std::string_view run, std::string& text) {
  text += run;
}

void DocumentKey::Composed::on_invalid(char byte, std::string& text) {
  text += byte;
}

}  // namespace einforge::data
