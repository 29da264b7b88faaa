#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace einforge::data {

// Makes bytes that come in pieces UTF-8, for libraries that take nothing else.
// Bytes that are part of no character become U+FFFD, each longest run of them
// that begins one as a whole: as in Python's bytes.decode(errors="replace"),
// and as section 3.9 of the Unicode standard recommends. All else stays as it
// is.
class Utf8Repair {
 public:
  // Appends what `bytes` become to `text`; a character that is cut waits for
  // the rest of it.
  void add(std::string_view bytes, std::string& text);
  // The stream has ended: appends what still waits.
  void finish(std::string& text);

  std::int64_t invalid_bytes() const { return invalid_bytes_; }

 private:
  void add_whole(std::string_view bytes, std::string& text);

  std::string waiting_;
  std::int64_t invalid_bytes_ = 0;
};

}  // namespace einforge::data
