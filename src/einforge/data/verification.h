#pragma once

#include <atomic>
#include <cstddef>
#include <future>
#include <string>

#include "einforge/data/token_files.h"

namespace einforge::data {

// Compares the token files with the hashes in meta.json, so that nobody trains
// on tokens that were changed after `data prepare`. What takes but a moment is
// read at once, more in the background.
class Verification {
 public:
  // About 50 ms of hashing.
  static constexpr std::size_t kBytesAtOnce = std::size_t{256} << 20;

  // `files` outlives it. Throws base::InvalidInput as check() does.
  explicit Verification(
      const TokenFiles& files, std::size_t bytes_at_once = kBytesAtOnce);
  Verification(const Verification&) = delete;
  Verification& operator=(const Verification&) = delete;
  // Stops reading.
  ~Verification() { stop_ = true; }

  // Throws base::InvalidInput when a file was found to differ. Never waits.
  void check() const;
  // check() when all is read.
  void wait() const;

 private:
  std::atomic<bool> stop_ = false;
  // What to say of a file that differs, else "".
  std::shared_future<std::string> failure_;
};

}  // namespace einforge::data
