#include "einforge/data/utf8_stream.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "einforge/data/icu.h"
#include "einforge/data/utf8_runs.h"

namespace einforge::data {
namespace {

// A longer segment is cut at its first character from kCutFrom on that never
// combines with what is before it, at the latest at kLongest. Both count from
// the segment's start, so that the pieces it comes in make no difference.
constexpr std::size_t kCutFrom = 4096;
constexpr std::size_t kLongest = 8192;

bool is_ascii(char byte) {
  return static_cast<unsigned char>(byte) < 0x80;
}

std::size_t ascii_length(std::string_view bytes) {
  constexpr std::uint64_t kHighBits = 0x8080808080808080;
  std::size_t i = 0;
  std::uint64_t word = 0;
  for (; i + sizeof(word) <= bytes.size(); i += sizeof(word)) {
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    if ((word & kHighBits) != 0) {
      break;
    }
  }
  while (i < bytes.size() && is_ascii(bytes[i])) {
    ++i;
  }
  return i;
}

std::size_t wide_length(std::string_view bytes) {
  return static_cast<std::size_t>(
      std::ranges::find_if(bytes, is_ascii) - bytes.begin());
}

const icu::Normalizer2& form_c() {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* form = icu::Normalizer2::getNFCInstance(error);
  check_icu(error);
  return *form;
}

// Where to cut a segment of more than kLongest bytes.
std::size_t cut_of(std::string_view segment) {
  auto next = static_cast<std::int32_t>(kCutFrom);
  std::size_t cut = kLongest;
  while (next < static_cast<std::int32_t>(kLongest)) {
    const auto start = static_cast<std::size_t>(next);
    UChar32 character = 0;
    U8_NEXT(segment.data(), next, segment.size(), character);
    if (character >= 0) {
      cut = start;
      if (form_c().hasBoundaryBefore(character)) {
        break;
      }
    }
  }
  return cut;
}

}  // namespace

void Utf8Stream::add(std::string_view bytes, std::string& text) {
  if (!waiting_.empty()) {
    const std::size_t wide = wide_length(bytes);
    waiting_.append(bytes.substr(0, wide));
    bytes.remove_prefix(wide);
    waiting_ = std::string(add_long(waiting_, text));
    if (bytes.empty()) {
      return;
    }
    add_segment(waiting_, text);
    waiting_.clear();
  }
  while (!bytes.empty()) {
    const std::size_t ascii = ascii_length(bytes);
    const std::size_t start = ascii == 0 ? 0 : ascii - 1;
    if (start > 0) {
      on_ascii(bytes.substr(0, start), text);
    }
    const std::size_t end = ascii + wide_length(bytes.substr(ascii));
    const std::string_view rest =
        add_long(bytes.substr(start, end - start), text);
    if (end == bytes.size()) {
      waiting_ = rest;
      return;
    }
    add_segment(rest, text);
    bytes.remove_prefix(end);
  }
}

void Utf8Stream::finish(std::string& text) {
  add_segment(waiting_, text);
  waiting_.clear();
}

// Adds the start of a segment that is too long; returns what is left of it.
std::string_view Utf8Stream::add_long(
    std::string_view segment, std::string& text) {
  while (segment.size() > kLongest) {
    const std::size_t cut = cut_of(segment);
    add_segment(segment.substr(0, cut), text);
    segment.remove_prefix(cut);
  }
  return segment;
}

void Utf8Stream::add_segment(std::string_view segment, std::string& text) {
  for_each_utf8_run(
      segment,
      [&](std::string_view run) { add_valid(run, text); },
      [&](std::string_view broken) {
        for (const char byte : broken) {
          on_invalid(byte, text);
        }
      });
}

void Utf8Stream::add_valid(std::string_view run, std::string& text) {
  if (run.empty()) {
    return;
  }
  if (run.size() == 1) {
    on_ascii(run, text);
    return;
  }
  std::string composed;
  icu::StringByteSink<std::string> sink(&composed);
  UErrorCode error = U_ZERO_ERROR;
  form_c().normalizeUTF8(
      0,
      icu::StringPiece(run.data(), static_cast<std::int32_t>(run.size())),
      sink,
      nullptr,
      error);
  check_icu(error);
  on_wide(composed, text);
}

}  // namespace einforge::data
