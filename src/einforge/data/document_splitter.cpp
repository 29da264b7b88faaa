#include "einforge/data/document_splitter.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::data {
namespace {

constexpr std::string_view kBlanks = " \t";

// A longer line of blanks alone counts as text, which bounds the memory.
constexpr std::size_t kLongestIndent = std::size_t{1} << 16;

int line_ends_between_documents(const std::string& separator) {
  const std::array<std::string, 3> known = {"blank-line", "line", "file"};
  base::check(
      std::ranges::find(known, separator) != known.end(),
      "document separator: expected blank-line, line or file; got '{}'{}",
      separator,
      base::suggestion(separator, known));
  return separator == "blank-line" ? 2
         : separator == "line"     ? 1
                                   : std::numeric_limits<int>::max();
}

bool is_line_end(char character) {
  return character == '\n' || character == '\r';
}

}  // namespace

std::size_t find_line_end(std::string_view text, std::size_t from) {
  const std::size_t newline = std::min(text.find('\n', from), text.size());
  return std::min(text.substr(0, newline).find('\r', from), newline);
}

DocumentSplitter::DocumentSplitter(
    const std::string& separator, OnText on_text, OnEnd on_end)
    : line_ends_needed_(line_ends_between_documents(separator)),
      on_text_(std::move(on_text)),
      on_end_(std::move(on_end)) {}

void DocumentSplitter::add(std::string_view text) {
  std::size_t given = 0;
  std::size_t line = 0;  // where the current one starts
  std::size_t at = 0;
  while (at < text.size()) {
    if (blank_) {
      const std::size_t next =
          std::min(text.find_first_not_of(kBlanks, at), text.size());
      after_return_ = after_return_ && next == at;
      at = next;
      if (at == text.size()) {
        break;
      }
      if (!is_line_end(text[at])) {
        give(text.substr(given, line - given));
        given = line;
        start_line();
      }
    }
    at = find_line_end(text, at);
    if (at < text.size()) {
      end_line(text[at]);
      ++at;
      line = at;
      given = in_document_ ? given : at;
    }
  }
  if (!blank_) {
    give(text.substr(given));
    return;
  }
  give(text.substr(given, line - given));
  indent_ += text.substr(line);
  if (indent_.size() > kLongestIndent) {
    start_line();
  }
}

// The current line holds text.
void DocumentSplitter::start_line() {
  if (in_document_ && line_ends_ >= line_ends_needed_) {
    on_end_();
  }
  in_document_ = true;
  blank_ = false;
  after_return_ = false;
  line_ends_ = 0;
  give(std::exchange(indent_, {}));
}

void DocumentSplitter::end_line(char end) {
  give(std::exchange(indent_, {}));
  blank_ = true;
  const bool second_half = end == '\n' && after_return_;
  after_return_ = end == '\r';
  line_ends_ += !second_half && line_ends_ < line_ends_needed_ ? 1 : 0;
}

void DocumentSplitter::give(std::string_view text) {
  if (in_document_ && !text.empty()) {
    on_text_(text);
  }
}

void DocumentSplitter::end_file() {
  if (in_document_) {
    if (!blank_ || !indent_.empty()) {
      give(indent_ + "\n");
    }
    on_end_();
  }
  in_document_ = false;
  blank_ = true;
  after_return_ = false;
  line_ends_ = 0;
  indent_.clear();
}

}  // namespace einforge::data
