#include "einforge/data/utf8_repair.h"

#include <unicode/utf8.h>

#include <algorithm>

#include "einforge/data/utf8_runs.h"

namespace einforge::data {
namespace {

// How many bytes at the end may be the start of a character.
std::size_t cut_length(std::string_view bytes) {
  constexpr std::size_t kLongest = 3;
  for (std::size_t length = 1; length <= std::min(kLongest, bytes.size());
       ++length) {
    const auto byte = static_cast<unsigned char>(bytes[bytes.size() - length]);
    if (U8_IS_LEAD(byte)) {
      return U8_COUNT_TRAIL_BYTES(byte) >= static_cast<int>(length) ? length
                                                                    : 0;
    }
    if (!U8_IS_TRAIL(byte)) {
      return 0;
    }
  }
  return 0;
}

}  // namespace

void Utf8Repair::add(std::string_view bytes, std::string& text) {
  std::string joined;
  if (!waiting_.empty()) {
    joined = waiting_ + std::string(bytes);
    bytes = joined;
    waiting_.clear();
  }
  const std::size_t cut = cut_length(bytes);
  add_whole(bytes.substr(0, bytes.size() - cut), text);
  waiting_ = bytes.substr(bytes.size() - cut);
}

void Utf8Repair::finish(std::string& text) {
  add_whole(waiting_, text);
  waiting_.clear();
}

void Utf8Repair::add_whole(std::string_view bytes, std::string& text) {
  for_each_utf8_run(
      bytes,
      [&](std::string_view run) { text += run; },
      [&](std::string_view broken) {
        text += "\xef\xbf\xbd";
        invalid_bytes_ += static_cast<std::int64_t>(broken.size());
      });
}

}  // namespace einforge::data
