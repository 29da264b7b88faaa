#include "einforge/data/dataset.h"

#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/base/random.h"

namespace einforge::data {

template <typename Start>
Batch TokenDataset::windows(
    const TokenFile& file,
    std::int64_t batch_size,
    std::int64_t context,
    Start&& start) const {
  const std::span<const std::uint16_t> tokens = file.tokens();
  const auto length = static_cast<std::int64_t>(tokens.size());
  base::check(
      batch_size > 0 && context > 0,
      "[batch] expected batch_size and context above 0; got {} and {}",
      batch_size,
      context);
  base::check(
      length > context,
      "'{}': expected more than {} tokens, the context; got {}",
      file.path().string(),
      context,
      length);
  Batch batch{
      torch::empty({batch_size, context}, torch::kInt64),
      torch::empty({batch_size, context}, torch::kInt64)};
  auto* x = batch.x.data_ptr<std::int64_t>();
  auto* y = batch.y.data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < batch_size; ++row) {
    // A window is context + 1 tokens, so that the last has a successor.
    const std::int64_t begin = start(row, length - context);
    for (std::int64_t i = 0; i <= context; ++i) {
      const std::int64_t token = tokens[static_cast<std::size_t>(begin + i)];
      // An embedding would read out of bounds.
      base::check(
          token < files_.metadata.vocab_size,
          "'{}': expected tokens below {}; got {} at {}: damaged, run `data "
          "prepare` again",
          file.path().string(),
          files_.metadata.vocab_size,
          token,
          begin + i);
      if (i < context) {
        x[row * context + i] = token;
      }
      if (i > 0) {
        y[row * context + i - 1] = token;
      }
    }
  }
  return batch;
}

Batch TokenDataset::train_batch(
    std::int64_t batch_size,
    std::int64_t context,
    std::uint64_t seed,
    std::int64_t index) const {
  verification_.check();
  const std::string_view key(
      reinterpret_cast<const char*>(&index), sizeof(index));
  base::Random random(base::hash64(key, seed));
  return windows(
      files_.train,
      batch_size,
      context,
      [&](std::int64_t, std::int64_t places) {
        return static_cast<std::int64_t>(
            random.below(static_cast<std::uint64_t>(places)));
      });
}

Batch TokenDataset::validation_batch(
    std::int64_t batch_size, std::int64_t context, std::int64_t index) const {
  verification_.wait();
  // 2^64 / golden ratio: 64-bit overflow takes the fractional part for free.
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  __extension__ using Wide = unsigned __int128;
  return windows(
      files_.validation,
      batch_size,
      context,
      [&](std::int64_t row, std::int64_t places) {
        const auto k = static_cast<std::uint64_t>(index * batch_size + row);
        return static_cast<std::int64_t>(
            (static_cast<Wide>(k * kGolden) * static_cast<Wide>(places)) >> 64);
      });
}

}  // namespace einforge::data
