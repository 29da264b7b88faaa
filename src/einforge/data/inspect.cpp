#include "einforge/data/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/data/codec.h"
#include "einforge/data/overlap.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/token_files.h"
#include "einforge/data/verification.h"

namespace einforge::data {
namespace {

// Occurrences of each token.
std::vector<std::int64_t> count_tokens(
    const TokenStream& tokens, std::int64_t vocab_size) {
  constexpr std::int64_t kChunk = std::int64_t{1} << 16;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocab_size));
  std::vector<std::int64_t> chunk(static_cast<std::size_t>(kChunk));
  for (std::int64_t begin = 0; begin < tokens.size(); begin += kChunk) {
    const auto read = std::span(chunk).first(
        static_cast<std::size_t>(std::min(kChunk, tokens.size() - begin)));
    tokens.read(begin, read);
    for (const std::int64_t token : read) {
      ++counts[static_cast<std::size_t>(token)];
    }
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

std::string sample(
    const std::filesystem::path& folder,
    const Metadata& metadata,
    const std::vector<std::int64_t>& tokens) {
  try {
    return open_codec(metadata.tokens, metadata.tokenizer, folder)
        ->decode(tokens);
  } catch (const base::InvalidInput& error) {
    // No library for it on this machine.
    return fmt::format("not shown: {}", error.what());
  }
}

}  // namespace

Inspection inspect(const std::filesystem::path& folder) {
  constexpr std::int64_t kSampleTokens = 400;
  const TokenFiles files = read_unreplaced(folder, [&] {
    TokenFiles opened(folder);
    if (!opened.metadata.tokenizer.file.empty()) {
      read_tokenizer(opened.metadata.tokenizer, folder);
    }
    return opened;
  });
  const Metadata& metadata = files.metadata;
  Verification(files).wait();
  const auto train = count_tokens(files.train, metadata.vocab_size);
  const auto validation = count_tokens(files.validation, metadata.vocab_size);
  std::vector<std::int64_t> start(static_cast<std::size_t>(
      std::min(kSampleTokens, files.validation.size())));
  files.validation.read(0, start);
  return {
      metadata,
      unigram_loss(train, validation),
      overlap(files.train, files.validation),
      sample(folder, metadata, start)};
}

}  // namespace einforge::data
