#include "einforge/data/overlap.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace einforge::data {
namespace {

using Tokens = std::span<const std::uint16_t>;

// A polynomial of a window's tokens modulo 2^64, which moves by one token in
// constant time.
class RollingHash {
 public:
  RollingHash() {
    for (std::size_t i = 0; i < kOverlapPiece; ++i) {
      highest_ *= kBase;
    }
  }
  void push(std::uint16_t token) { hash_ = hash_ * kBase + token + 1U; }
  void pop(std::uint16_t token) { hash_ -= highest_ * (token + 1U); }
  // With its bits mixed.
  std::uint64_t value() const {
    const std::uint64_t folded = hash_ ^ (hash_ >> 32U);
    return folded * 0x9e3779b97f4a7c15;
  }

 private:
  static constexpr std::uint64_t kBase = 0xd1342543de82ef95;

  std::uint64_t highest_ = 1;  // kBase^kOverlapPiece
  std::uint64_t hash_ = 0;
};

}  // namespace

double overlap(Tokens train, Tokens validation, std::size_t most_pieces) {
  constexpr unsigned kFilterBits = 24;
  const std::size_t pieces = validation.size() / kOverlapPiece;
  const std::size_t step = pieces / most_pieces + 1;
  std::unordered_map<std::uint64_t, std::int64_t> wanted;  // hash -> how often
  // Most windows of `train` are none of them and end here.
  std::vector<bool> filter(std::size_t{1} << kFilterBits);
  std::int64_t total = 0;
  for (std::size_t piece = 0; piece < pieces; piece += step) {
    RollingHash hash;
    for (const std::uint16_t token :
         validation.subspan(piece * kOverlapPiece, kOverlapPiece)) {
      hash.push(token);
    }
    ++wanted[hash.value()];
    filter[hash.value() >> (64U - kFilterBits)] = true;
    ++total;
  }
  std::int64_t found = 0;
  RollingHash hash;
  for (std::size_t i = 0; i < train.size() && !wanted.empty(); ++i) {
    hash.push(train[i]);
    if (i >= kOverlapPiece) {
      hash.pop(train[i - kOverlapPiece]);
    }
    if (i + 1 >= kOverlapPiece && filter[hash.value() >> (64U - kFilterBits)]) {
      if (const auto at = wanted.find(hash.value()); at != wanted.end()) {
        found += at->second;
        wanted.erase(at);
      }
    }
  }
  return static_cast<double>(found) /
         static_cast<double>(std::max<std::int64_t>(1, total));
}

}  // namespace einforge::data
