#include "einforge/data/document_sink.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <utility>

namespace einforge::data {
namespace {

// Together in one message: enough for all processors, little enough to hold.
constexpr std::size_t kBatchBytes = std::size_t{2} << 20;
constexpr std::size_t kBatchTexts = 8192;

// Where to cut a text: the last place that makes no difference, else the last
// character.
std::size_t cut_of(std::string_view text) {
  for (std::size_t at = text.size() - 1; at >= 2; --at) {
    const auto is_blank = [&](std::size_t place) {
      return std::isspace(static_cast<unsigned char>(text[place])) != 0;
    };
    if (text[at - 1] == '\n' && !is_blank(at - 2) &&
        std::isalnum(static_cast<unsigned char>(text[at])) != 0) {
      return at;
    }
  }
  std::size_t cut = text.size() - 1;
  while (cut > 1 && (static_cast<unsigned char>(text[cut]) & 0xc0U) == 0x80U) {
    --cut;
  }
  return cut;
}

}  // namespace

void AlphabetSink::add(Side& side, std::string_view text) {
  tokens_.clear();
  tokenizer_.encode_symbols(text, tokens_);
  side.writer.write(std::span<const std::uint16_t>(tokens_));
}

LibrarySink::LibrarySink(LibraryTokenizer& tokenizer, std::int64_t end_of_text)
    : tokenizer_(tokenizer),
      end_of_text_(end_of_text),
      receiver_([this] { receive(); }) {}

LibrarySink::~LibrarySink() {
  if (receiver_.joinable()) {
    tokenizer_.interrupt();
    stop();
  }
}

void LibrarySink::add(Side& side, std::string_view text) {
  piece_ += text;
  while (piece_.size() > kLongestPiece) {
    push(
        side, cut_of(std::string_view(piece_).substr(0, kLongestPiece)), false);
  }
}

void LibrarySink::end_document(Side& side) {
  push(side, piece_.size(), true);
}

void LibrarySink::push(Side& side, std::size_t length, bool ends) {
  texts_.push_back(piece_.substr(0, length));
  piece_.erase(0, length);
  places_.push_back({&side, ends});
  bytes_ += length;
  if (bytes_ >= kBatchBytes || texts_.size() >= kBatchTexts) {
    send();
  }
}

void LibrarySink::send() {
  {
    const std::scoped_lock lock(mutex_);
    sent_.push_back(std::exchange(places_, {}));
  }
  changed_.notify_one();
  try {
    tokenizer_.send(texts_);
  } catch (...) {
    // The receiver knows better why.
    stop();
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    throw;
  }
  texts_.clear();
  bytes_ = 0;
}

void LibrarySink::finish() {
  if (!texts_.empty()) {
    send();
  }
  stop();
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

void LibrarySink::stop() noexcept {
  {
    const std::scoped_lock lock(mutex_);
    done_ = true;
  }
  changed_.notify_one();
  if (receiver_.joinable()) {
    receiver_.join();
  }
}

void LibrarySink::receive() {
  try {
    for (;;) {
      Places places;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return done_ || !sent_.empty(); });
        if (sent_.empty()) {
          return;
        }
        places = std::move(sent_.front());
        sent_.pop_front();
      }
      const auto all = tokenizer_.receive();
      for (std::size_t i = 0; i < places.size() && i < all.size(); ++i) {
        TokenWriter& writer = places[i].side->writer;
        writer.write(std::span<const std::uint32_t>(all[i]));
        if (places[i].ends && end_of_text_ >= 0) {
          writer.write(std::span<const std::uint32_t>(
              std::array{static_cast<std::uint32_t>(end_of_text_)}));
        }
      }
    }
  } catch (...) {
    failure_ = std::current_exception();
    tokenizer_.interrupt();
  }
}

}  // namespace einforge::data
