#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "einforge/data/library_tokenizer.h"
#include "einforge/data/metadata.h"
#include "einforge/data/token_writer.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {

// One of the two sides that are written.
struct Side {
  Side(const std::filesystem::path& path, std::int64_t width)
      : writer(path, width) {}

  SplitInfo info() const {
    return {writer.tokens(), documents, writer.hash(), {}};
  }

  TokenWriter writer;
  std::int64_t documents = 0;
};

// Turns the text of documents into tokens of their side.
class DocumentSink {
 public:
  virtual ~DocumentSink() = default;
  // The next part of a document; all parts of one go to one side.
  virtual void add(Side& side, std::string_view text) = 0;
  virtual void end_document(Side& side) = 0;
  // All is written to the sides when this returns.
  virtual void finish() = 0;
};

// By an alphabet, whose symbols alone the text holds.
class AlphabetSink : public DocumentSink {
 public:
  explicit AlphabetSink(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void add(Side& side, std::string_view text) override;
  void end_document(Side&) override {}
  void finish() override {}

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::uint16_t> tokens_;
};

// By a library, which runs beside the thread that reads; a thread of this
// writes. A document is encoded as a whole, one of more than kLongestPiece
// bytes in pieces, cut before a line that follows no blank one and begins with
// an ASCII letter or digit where there is such a place, which makes no
// difference to the tokenizers that we know. Text is UTF-8.
class LibrarySink : public DocumentSink {
 public:
  static constexpr std::size_t kLongestPiece = std::size_t{1} << 20;

  // Documents end with that token; -1: with none.
  LibrarySink(LibraryTokenizer& tokenizer, std::int64_t end_of_text);
  ~LibrarySink() override;

  void add(Side& side, std::string_view text) override;
  void end_document(Side& side) override;
  void finish() override;

 private:
  // What becomes of the tokens of one text.
  struct Place {
    Side* side;
    bool ends;  // the document
  };
  using Places = std::vector<Place>;

  void push(Side& side, std::size_t length, bool ends);
  void send();
  void receive();
  void stop() noexcept;

  LibraryTokenizer& tokenizer_;
  std::int64_t end_of_text_;
  std::string piece_;
  std::vector<std::string> texts_;
  std::size_t bytes_ = 0;  // of texts_
  Places places_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Places> sent_;
  bool done_ = false;
  std::exception_ptr failure_;
  std::thread receiver_;
};

}  // namespace einforge::data
