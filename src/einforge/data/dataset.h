#pragma once

#include <cstdint>
#include <filesystem>

#include "einforge/data/batch.h"
#include "einforge/data/token_files.h"
#include "einforge/data/verification.h"

namespace einforge::data {

// Batches of the token files of a data folder. They are pure functions of their
// arguments, so that a resumed run needs to remember only its step.
//
// The files are verified: small ones before the constructor returns, large ones
// in the background, and then every call may throw base::InvalidInput for a
// file that was changed. A validation batch waits for the result, so that no
// loss is reported of what is not what was prepared.
class TokenDataset {
 public:
  // Throws as TokenFiles and Verification.
  explicit TokenDataset(const std::filesystem::path& folder)
      : files_(folder), verification_(files_) {}

  const Metadata& metadata() const { return files_.metadata; }
  const TokenStream& train() const { return files_.train; }
  const TokenStream& validation() const { return files_.validation; }

  // Windows at uniformly random places of train.bin, drawn from (seed, index)
  // alone.
  // @return x and y (batch_size, context), int64, CPU; y is x one token later.
  // @throw base::InvalidInput when train.bin is no longer than `context` or
  //        holds a token outside the vocabulary.
  Batch train_batch(
      std::int64_t batch_size,
      std::int64_t context,
      std::uint64_t seed,
      std::int64_t index) const;

  // Batch `index` of a fixed sequence of windows of val.bin. Window k starts
  // at the fractional part of k times the golden ratio, scaled to the file, so
  // that any number of first windows is spread evenly over the whole file.
  // @return and @throw as train_batch.
  Batch validation_batch(
      std::int64_t batch_size, std::int64_t context, std::int64_t index) const;

 private:
  template <typename Start>
  Batch windows(
      const TokenStream& tokens,
      std::int64_t batch_size,
      std::int64_t context,
      Start&& start) const;

  TokenFiles files_;
  Verification verification_;
};

}  // namespace einforge::data
