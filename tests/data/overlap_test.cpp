#include "einforge/data/overlap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::data {
namespace {

using Tokens = std::vector<std::uint16_t>;

Tokens random_tokens(std::size_t size, std::uint64_t seed) {
  base::Random random(seed);
  Tokens tokens(size);
  for (std::uint16_t& token : tokens) {
    token = static_cast<std::uint16_t>(random.below(3));
  }
  return tokens;
}

double overlap_of(
    std::span<const std::uint16_t> train,
    std::span<const std::uint16_t> validation,
    std::size_t most_pieces = 1'000'000) {
  const auto stream = [](std::span<const std::uint16_t> tokens) {
    return TokenStream({{.bytes = std::as_bytes(tokens)}}, 2, 65'536);
  };
  return overlap(stream(train), stream(validation), most_pieces);
}

// By looking for each piece.
double slow_overlap(const Tokens& train, const Tokens& validation) {
  const auto piece = static_cast<std::ptrdiff_t>(kOverlapPiece);
  int found = 0;
  int total = 0;
  for (auto i = validation.begin(); validation.end() - i >= piece; i += piece) {
    ++total;
    found +=
        std::search(train.begin(), train.end(), i, i + piece) != train.end()
            ? 1
            : 0;
  }
  return total == 0 ? 0 : static_cast<double>(found) / total;
}

TEST(OverlapTest, CountsPiecesThatAreAnywhereInTrain) {
  base::Random random(9);
  for (int i = 0; i < 40; ++i) {
    Tokens train = random_tokens(3000, static_cast<std::uint64_t>(i));
    const Tokens validation = random_tokens(
        100 + random.below(1500), static_cast<std::uint64_t>(i) + 99);
    // Parts of it, some cut within a piece, some reaching the ends of `train`.
    for (int j = 0; j < 4; ++j) {
      const std::size_t length =
          std::min<std::size_t>(random.below(300), validation.size());
      const std::size_t from = random.below(validation.size() - length + 1);
      const std::size_t to = j == 0 ? 0 : random.below(train.size() - length);
      std::copy_n(
          validation.begin() + static_cast<std::ptrdiff_t>(from),
          length,
          (j == 1 ? train.end() - static_cast<std::ptrdiff_t>(length)
                  : train.begin() + static_cast<std::ptrdiff_t>(to)));
    }
    ASSERT_DOUBLE_EQ(
        overlap_of(train, validation), slow_overlap(train, validation));
  }
}

TEST(OverlapTest, NothingAndAll) {
  const Tokens tokens = random_tokens(1000, 1);
  EXPECT_EQ(overlap_of(tokens, tokens), 1);
  EXPECT_EQ(overlap_of(tokens, random_tokens(1000, 2)), 0);
  EXPECT_EQ(overlap_of({}, tokens), 0);
  EXPECT_EQ(overlap_of(tokens, std::span(tokens).first(kOverlapPiece - 1)), 0);
  // Alike pieces are counted each.
  EXPECT_EQ(overlap_of(Tokens(100, 5), Tokens(640, 5)), 1);
}

// More pieces than are looked for.
TEST(OverlapTest, LongFilesAreSampledEvenly) {
  const Tokens validation = random_tokens(1'000'000, 3);
  const std::span<const std::uint16_t> part =
      std::span(validation).first(validation.size() / 4);
  EXPECT_NEAR(overlap_of(part, validation, 1000), 0.25, 5e-3);
}

}  // namespace
}  // namespace einforge::data
