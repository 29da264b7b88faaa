#include "einforge/data/verification.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/hash.h"

namespace einforge::data {
namespace {

std::string_view bytes_of(const TokenFile& file) {
  const auto tokens = file.tokens();
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()};
}

// What to say of the file if it differs, else "".
std::string compare(
    const TokenFile& file,
    const SplitInfo& expected,
    const std::atomic<bool>& stop) {
  constexpr std::size_t kPiece = std::size_t{16} << 20;
  base::Hasher hasher;
  for (std::string_view rest = bytes_of(file); !rest.empty() && !stop;
       rest.remove_prefix(std::min(kPiece, rest.size()))) {
    hasher.update(rest.substr(0, kPiece));
  }
  const std::string hash = hasher.hex();
  return stop || hash == expected.hash
             ? ""
             : fmt::format(
                   "'{}': expected hash {}, as meta.json says; got {}: changed "
                   "since it was prepared; see `data inspect`, run `data "
                   "prepare` again",
                   file.path().string(),
                   expected.hash,
                   hash);
}

}  // namespace

Verification::Verification(const TokenFiles& files, std::size_t bytes_at_once)
    : failure_(std::async(std::launch::async, [this, &files] {
        std::string failure = compare(files.train, files.metadata.train, stop_);
        return failure.empty()
                   ? compare(files.validation, files.metadata.validation, stop_)
                   : failure;
      })) {
  if (bytes_of(files.train).size() + bytes_of(files.validation).size() <=
      bytes_at_once) {
    wait();
  }
}

void Verification::check() const {
  if (failure_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
    wait();
  }
}

void Verification::wait() const {
  if (const std::string& failure = failure_.get(); !failure.empty()) {
    throw base::InvalidInput(failure);
  }
}

}  // namespace einforge::data
