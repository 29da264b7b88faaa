#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "einforge/base/files.h"
#include "einforge/data/batch.h"
#include "einforge/data/metadata.h"

namespace einforge::data {

// The token files of a data folder, memory-mapped: any size, no copy, shared
// by all processes that read them. Raw little-endian uint16 without a header,
// as nanoGPT's numpy.memmap expects.
//
// Batches are pure functions of their arguments, so that a resumed run needs
// to remember only its step.
class TokenDataset {
 public:
  // Throws base::InvalidInput when the folder is missing or damaged (a file
  // whose size is not what meta.json says).
  explicit TokenDataset(const std::filesystem::path& folder);

  const Metadata& metadata() const { return metadata_; }
  std::span<const std::uint16_t> train() const { return train_.tokens(); }
  std::span<const std::uint16_t> validation() const {
    return validation_.tokens();
  }

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
  class TokenFile {
   public:
    TokenFile(const std::filesystem::path& path, std::int64_t tokens);
    std::span<const std::uint16_t> tokens() const;
    const std::filesystem::path& path() const { return path_; }

   private:
    std::filesystem::path path_;
    base::MappedFile file_;
  };

  template <typename Start>
  Batch windows(
      const TokenFile& file,
      std::int64_t batch_size,
      std::int64_t context,
      Start&& start) const;

  Metadata metadata_;
  TokenFile train_;
  TokenFile validation_;
};

}  // namespace einforge::data
