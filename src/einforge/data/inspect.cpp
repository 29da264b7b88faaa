#include "einforge/data/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"
#include "einforge/data/token_files.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {
namespace {

// Occurrences of each token, after verifying the file.
std::vector<std::int64_t> count_tokens(
    const std::filesystem::path& path,
    std::span<const std::uint16_t> tokens,
    const SplitInfo& info,
    std::int64_t vocab_size) {
  const std::string hash = base::hash_hex(
      {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()});
  base::check(
      hash == info.hash,
      "'{}': expected hash {}, as meta.json says; got {}: damaged, run `data "
      "prepare` again",
      path.string(),
      info.hash,
      hash);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocab_size));
  for (const std::uint16_t token : tokens) {
    base::check(
        token < vocab_size,
        "'{}': expected tokens below {}; got {}",
        path.string(),
        vocab_size,
        token);
    ++counts[token];
  }
  return counts;
}

// Cross-entropy of `validation` under the frequencies of `train`, each count
// plus one so that a symbol that training lacks costs much, not everything.
double unigram_loss(
    const std::vector<std::int64_t>& train,
    const std::vector<std::int64_t>& validation) {
  double train_total = 0;
  double total = 0;
  for (std::size_t i = 0; i < train.size(); ++i) {
    train_total += static_cast<double>(train[i] + 1);
    total += static_cast<double>(validation[i]);
  }
  double loss = 0;
  for (std::size_t i = 0; i < train.size(); ++i) {
    loss -= static_cast<double>(validation[i]) / total *
            std::log(static_cast<double>(train[i] + 1) / train_total);
  }
  return loss;
}

}  // namespace

Inspection inspect(const std::filesystem::path& folder) {
  constexpr std::size_t kSampleTokens = 400;
  const TokenFiles files(folder);
  const Metadata& metadata = files.metadata;
  const auto train = count_tokens(
      folder / "train.bin",
      files.train.tokens(),
      metadata.train,
      metadata.vocab_size);
  const auto validation = count_tokens(
      folder / "val.bin",
      files.validation.tokens(),
      metadata.validation,
      metadata.vocab_size);
  const auto held_out = files.validation.tokens();
  const auto start = held_out.first(std::min(kSampleTokens, held_out.size()));
  const Tokenizer tokenizer(metadata.tokens);
  return {
      metadata,
      unigram_loss(train, validation),
      tokenizer.decode(std::vector<std::int64_t>(start.begin(), start.end()))};
}

}  // namespace einforge::data
