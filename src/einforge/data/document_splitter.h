#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace einforge::data {

// Position of the first line end (LF, CR, or the CR of CRLF) from `from` on,
// text.size() where there is none.
std::size_t find_line_end(std::string_view text, std::size_t from);

// Cuts text that comes in pieces into documents.
//
// What ends a document is a blank line (one of spaces and tabs at most), a line
// end or the end of the file. Lines end in LF, CR or CRLF. Each document is
// given with the blank lines that follow it. Blank lines before the first of a
// file are left out, so that every document holds something.
class DocumentSplitter {
 public:
  using OnText = std::function<void(std::string_view)>;
  using OnEnd = std::function<void()>;

  // `separator`: blank-line, line or file; throws base::InvalidInput for
  // another. `on_text` gets the text of each document in pieces, then `on_end`
  // is called.
  DocumentSplitter(const std::string& separator, OnText on_text, OnEnd on_end);

  void add(std::string_view text);
  // Ends the file's last document, with a newline where it has no line end.
  void end_file();

 private:
  void give(std::string_view text);
  void start_line();
  void end_line(char end);

  int line_ends_needed_;
  OnText on_text_;
  OnEnd on_end_;
  bool in_document_ = false;
  bool blank_ = true;  // the current line, so far
  bool after_return_ = false;
  int line_ends_ = 0;   // since the last line that is not blank
  std::string indent_;  // of the current line, from earlier pieces
};

}  // namespace einforge::data
