#include "einforge/data/verification.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"

namespace einforge::data {
namespace {

std::size_t bytes_of(const TokenStream& stream) {
  std::size_t bytes = 0;
  for (const TokenStream::Piece& piece : stream.pieces()) {
    bytes += piece.bytes.size();
  }
  return bytes;
}

// What to say of the first file that differs, else "".
std::string compare(const TokenStream& stream, const std::atomic<bool>& stop) {
  constexpr std::size_t kChunk = std::size_t{16} << 20;
  for (const TokenStream::Piece& piece : stream.pieces()) {
    base::Hasher hasher;
    for (std::string_view rest(
             reinterpret_cast<const char*>(piece.bytes.data()),
             piece.bytes.size());
         !rest.empty() && !stop;
         rest.remove_prefix(std::min(kChunk, rest.size()))) {
      hasher.update(rest.substr(0, kChunk));
    }
    const std::string hash = hasher.hex();
    if (stop) {
      return "";
    }
    if (hash != piece.hash) {
      return fmt::format(
          "'{}': expected hash {}, as meta.json says; got {}: changed since it "
          "was prepared or imported; see `data inspect`, prepare or import it "
          "again",
          piece.path.string(),
          piece.hash,
          hash);
    }
  }
  return "";
}

}  // namespace

Verification::Verification(const TokenFiles& files, std::size_t bytes_at_once)
    : failure_(std::async(std::launch::async, [this, &files] {
        std::string failure = compare(files.train, stop_);
        return failure.empty() ? compare(files.validation, stop_) : failure;
      })) {
  if (bytes_of(files.train) + bytes_of(files.validation) <= bytes_at_once) {
    wait();
  }
}

void Verification::check() const {
  if (failure_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    wait();
  }
}

void Verification::wait() const {
  if (const std::string& failure = failure_.get(); !failure.empty()) {
    throw base::InvalidInput(failure);
  }
}

}  // namespace einforge::data
