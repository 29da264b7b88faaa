#include "einforge/data/ascii_text.h"

#include <unicode/utf8.h>

#include <cstddef>
#include <optional>

namespace einforge::data {
namespace {

bool is_printable(char character) {
  return character >= ' ' && character <= '~';
}

// Length of the run of newlines and printable ASCII at the start.
std::size_t plain_length(std::string_view bytes) {
  // Whole blocks without a branch, which compilers turn into SIMD.
  constexpr std::size_t kBlock = 64;
  std::size_t i = 0;
  for (; i + kBlock <= bytes.size(); i += kBlock) {
    unsigned other = 0;
    for (const char character : bytes.substr(i, kBlock)) {
      other |= static_cast<unsigned>(
          !(is_printable(character) || character == '\n'));
    }
    if (other != 0) {
      break;
    }
  }
  while (i < bytes.size() && (is_printable(bytes[i]) || bytes[i] == '\n')) {
    ++i;
  }
  return i;
}

}  // namespace

void AsciiText::on_ascii(std::string_view run, std::string& text) {
  skip_newline_after_return(run);
  while (!run.empty()) {
    const std::size_t plain = plain_length(run);
    text.append(run.substr(0, plain));
    run.remove_prefix(plain);
    if (run.empty()) {
      break;
    }
    const char control = run.front();
    run.remove_prefix(1);
    if (control == '\r') {
      text += '\n';
      after_return_ = true;
      skip_newline_after_return(run);
    } else if (control == '\t' || control == '\f') {
      ++replacements_.transliterated[static_cast<unsigned char>(control)];
      text += control == '\t' ? ' ' : '\n';
    } else {
      ++replacements_.unknown[static_cast<unsigned char>(control)];
      text += '?';
    }
  }
  after_digit_ = !text.empty() && text.back() >= '0' && text.back() <= '9';
}

// A carriage return has become a newline; one that follows it is dropped, or
// rather, as it is counted, the return.
void AsciiText::skip_newline_after_return(std::string_view& run) {
  if (after_return_ && !run.empty()) {
    const bool newline = run.front() == '\n';
    run.remove_prefix(newline ? 1 : 0);
    end_return(newline);
  }
}

void AsciiText::end_return(bool newline_follows) {
  if (after_return_) {
    ++(newline_follows ? replacements_.dropped
                       : replacements_.transliterated)[U'\r'];
    after_return_ = false;
  }
}

void AsciiText::on_wide(std::string_view run, std::string& text) {
  std::size_t next = 0;
  while (next < run.size()) {
    const std::size_t start = next;
    UChar32 character = 0;
    U8_NEXT(run.data(), next, run.size(), character);
    if (next == start + 1) {
      on_ascii(run.substr(start, 1), text);
    } else {
      add_character(static_cast<char32_t>(character), text);
    }
  }
}

void AsciiText::add_character(char32_t character, std::string& text) {
  end_return(false);
  const std::optional<std::string>& spelling = transliterator_.spell(character);
  if (!spelling) {
    ++replacements_.unknown[character];
    text += '?';
  } else if (spelling->empty()) {
    ++replacements_.dropped[character];
    return;
  } else {
    ++replacements_.transliterated[character];
    // One and a half is "1 1/2", not eleven halves.
    text += after_digit_ && is_fraction(character) ? " " : "";
    text += *spelling;
  }
  after_digit_ = text.back() >= '0' && text.back() <= '9';
}

void AsciiText::on_invalid(char, std::string& text) {
  end_return(false);
  ++replacements_.invalid_bytes;
  text += '?';
  after_digit_ = false;
}

void AsciiText::finish(std::string& text) {
  Utf8Stream::finish(text);
  end_return(false);
  after_digit_ = false;
}

}  // namespace einforge::data
