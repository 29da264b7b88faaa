#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "einforge/data/tokenizer.h"
#include "einforge/data/utf8_stream.h"

namespace einforge::data {

// What decides the side of a document: the start of its text without that in
// which copies of it differ. Line ends of any kind are alike; blank lines and
// blanks at the end of a line do not count; Unicode is in normalisation form C.
class DocumentKey {
 public:
  DocumentKey(const Tokenizer& tokenizer, const std::string& separator);

  // Adds the document's next piece.
  void add(std::string_view text);
  // Whether what follows makes no difference.
  bool complete() const { return lines_.size() >= kSymbols; }
  // A number in [0, 1) that depends on the key and the seed alone. The next
  // piece starts another document.
  double finish(std::uint64_t seed);

 private:
  // A document's side is known after so many symbols, however long it is.
  static constexpr std::size_t kSymbols = 32'768;

  // Normalisation form C; bytes that are not UTF-8 stay.
  class Composed : public Utf8Stream {
   protected:
    void on_ascii(std::string_view run, std::string& text) override;
    void on_wide(std::string_view run, std::string& text) override;
    void on_invalid(char byte, std::string& text) override;
  };

  void add_composed(std::string_view text);

  const Tokenizer& tokenizer_;
  std::string_view end_;
  Composed composed_;
  std::string lines_;
  std::string blanks_;         // after what lines_ has of the current line
  bool line_is_blank_ = true;  // the current one, so far
};

}  // namespace einforge::data
