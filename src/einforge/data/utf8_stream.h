#pragma once

#include <string>
#include <string_view>

namespace einforge::data {

// Reads UTF-8 that comes in pieces. A subclass turns what is found into text;
// where the pieces are cut makes no difference to it.
class Utf8Stream {
 public:
  virtual ~Utf8Stream() = default;

  // Appends what `bytes` become to `text`; the last few may have to wait for
  // what follows them.
  void add(std::string_view bytes, std::string& text);
  // The stream has ended: appends what still waits.
  virtual void finish(std::string& text);

 protected:
  Utf8Stream() = default;
  Utf8Stream(const Utf8Stream&) = default;
  Utf8Stream& operator=(const Utf8Stream&) = default;

  // Characters below U+0080.
  virtual void on_ascii(std::string_view run, std::string& text) = 0;
  // Characters of which at most the first is below U+0080, in Unicode's
  // normalisation form C: a letter with a mark is one character where there is
  // one, however it was written.
  virtual void on_wide(std::string_view run, std::string& text) = 0;
  // A byte that is part of no character.
  virtual void on_invalid(char byte, std::string& text) = 0;

 private:
  std::string_view add_long(std::string_view segment, std::string& text);
  void add_segment(std::string_view segment, std::string& text);
  void add_valid(std::string_view run, std::string& text);

  // What a mark that follows could change: a character below U+0080, then
  // bytes beyond it.
  std::string waiting_;
};

}  // namespace einforge::data
