#include "einforge/data/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/data/overlap.h"
#include "einforge/data/token_files.h"
#include "einforge/data/tokenizer.h"
#include "einforge/data/verification.h"

namespace einforge::data {
namespace {

// Occurrences of each token.
std::vector<std::int64_t> count_tokens(
    const TokenFile& file, std::int64_t vocab_size) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocab_size));
  for (const std::uint16_t token : file.tokens()) {
    base::check(
        token < vocab_size,
        "'{}': expected tokens below {}; got {}",
        file.path().string(),
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
  Verification(files).wait();
  const auto train = count_tokens(files.train, metadata.vocab_size);
  const auto validation = count_tokens(files.validation, metadata.vocab_size);
  const auto held_out = files.validation.tokens();
  const auto start = held_out.first(std::min(kSampleTokens, held_out.size()));
  const Tokenizer tokenizer(metadata.tokens);
  return {
      metadata,
      unigram_loss(train, validation),
      overlap(files.train.tokens(), files.validation.tokens()),
      tokenizer.decode(std::vector<std::int64_t>(start.begin(), start.end()))};
}

}  // namespace einforge::data
