#include "einforge/data/overlap.h"

#include <algorithm>
#include <array>
#include <span>
#include <unordered_map>
#include <vector>

namespace einforge::data {
namespace {

// A polynomial of a window's tokens modulo 2^64, which moves by one token in
// constant time.
class RollingHash {
 public:
  RollingHash() {
    for (std::size_t i = 0; i < kOverlapPiece; ++i) {
      highest_ *= kBase;
    }
  }
  void push(std::int64_t token) { hash_ = hash_ * kBase + number(token); }
  void pop(std::int64_t token) { hash_ -= highest_ * number(token); }
  // With its bits mixed.
  std::uint64_t value() const {
    const std::uint64_t folded = hash_ ^ (hash_ >> 32U);
    return folded * 0x9e3779b97f4a7c15;
  }

 private:
  static constexpr std::uint64_t kBase = 0xd1342543de82ef95;

  static std::uint64_t number(std::int64_t token) {
    return static_cast<std::uint64_t>(token) + 1;
  }

  std::uint64_t highest_ = 1;  // kBase^kOverlapPiece
  std::uint64_t hash_ = 0;
};

}  // namespace

double overlap(
    const TokenStream& train,
    const TokenStream& validation,
    std::size_t most_pieces) {
  constexpr unsigned kFilterBits = 24;
  const std::size_t pieces =
      static_cast<std::size_t>(validation.size()) / kOverlapPiece;
  const std::size_t step = pieces / most_pieces + 1;
  std::unordered_map<std::uint64_t, std::int64_t> wanted;  // hash -> how often
  // Most windows of `train` are none of them and end here.
  std::vector<bool> filter(std::size_t{1} << kFilterBits);
  std::int64_t total = 0;
  std::array<std::int64_t, kOverlapPiece> tokens{};
  for (std::size_t piece = 0; piece < pieces; piece += step) {
    validation.read(static_cast<std::int64_t>(piece * kOverlapPiece), tokens);
    RollingHash hash;
    for (const std::int64_t token : tokens) {
      hash.push(token);
    }
    ++wanted[hash.value()];
    filter[hash.value() >> (64U - kFilterBits)] = true;
    ++total;
  }
  std::int64_t found = 0;
  RollingHash hash;
  // A chunk begins with the last tokens of the one before.
  constexpr std::size_t kChunk = std::size_t{1} << 16;
  std::vector<std::int64_t> chunk(kOverlapPiece + kChunk);
  for (std::int64_t done = 0; done < train.size() && !wanted.empty();) {
    const auto count = static_cast<std::size_t>(
        std::min<std::int64_t>(kChunk, train.size() - done));
    std::copy(chunk.end() - kOverlapPiece, chunk.end(), chunk.begin());
    train.read(done, std::span(chunk).subspan(kOverlapPiece, count));
    for (std::size_t i = 0; i < count; ++i) {
      hash.push(chunk[kOverlapPiece + i]);
      const auto at = static_cast<std::size_t>(done) + i;
      if (at >= kOverlapPiece) {
        hash.pop(chunk[i]);
      }
      if (at + 1 < kOverlapPiece ||
          !filter[hash.value() >> (64U - kFilterBits)]) {
        continue;
      }
      if (const auto place = wanted.find(hash.value()); place != wanted.end()) {
        found += place->second;
        wanted.erase(place);
      }
    }
    done += static_cast<std::int64_t>(count);
  }
  return static_cast<double>(found) /
         static_cast<double>(std::max<std::int64_t>(1, total));
}

}  // namespace einforge::data
