#pragma once

#include <filesystem>
#include <string>

#include "einforge/base/config.h"
#include "einforge/data/metadata.h"

namespace einforge::data {

// What a data folder holds, as its files say, all of which are read.
struct Inspection {
  Metadata metadata;
  double unigram_loss = 0;
  double overlap = 0;
  std::string sample;

  template <typename Self, typename Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("metadata", self.metadata, "meta.json");
    visit(
        "unigram_loss",
        self.unigram_loss,
        "nats per token of val.bin under the symbol frequencies of train.bin");
    visit(
        "overlap",
        self.overlap,
        "share of val.bin, in pieces of 64 symbols, that is in train.bin too");
    visit("sample", self.sample, "the first characters of val.bin");
  }
};

// Reads all of both files. Throws base::InvalidInput when a size, a hash or a
// token is not what meta.json says.
Inspection inspect(const std::filesystem::path& folder);

}  // namespace einforge::data
