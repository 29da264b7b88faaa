#include "einforge/data/dataset.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/base/random.h"

namespace einforge::data {

template <typename Start>
Batch TokenDataset::windows(
    const TokenStream& tokens,
    std::int64_t batch_size,
    std::int64_t context,
    Start&& start) const {
  const std::int64_t length = tokens.size();
  base::check(
      batch_size > 0 && context > 0,
      "[batch] expected batch_size and context above 0; got {} and {}",
      batch_size,
      context);
  base::check(
      length > context,
      "'{}': expected more than {} tokens, the context; got {}",
      tokens.pieces().front().path.string(),
      context,
      length);
  Batch batch{
      torch::empty({batch_size, context}, torch::kInt64),
      torch::empty({batch_size, context}, torch::kInt64)};
  auto* x = batch.x.data_ptr<std::int64_t>();
  auto* y = batch.y.data_ptr<std::int64_t>();
  // A window is context + 1 tokens, so that the last has a successor.
  std::vector<std::int64_t> window(static_cast<std::size_t>(context) + 1);
  for (std::int64_t row = 0; row < batch_size; ++row) {
    tokens.read(start(row, length - context), window);
    std::copy(window.begin(), window.end() - 1, x + row * context);
    std::copy(window.begin() + 1, window.end(), y + row * context);
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
