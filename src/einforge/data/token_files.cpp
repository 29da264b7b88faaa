#include "einforge/data/token_files.h"

#include <sys/stat.h>

#include <bit>
#include <chrono>
#include <thread>
#include <tuple>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/data/staged_folder.h"

namespace einforge::data {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "token files are little-endian and read in place");

}  // namespace

TokenFile::TokenFile(const std::filesystem::path& path, std::int64_t tokens)
    : path_(path), file_(path) {
  // Unsigned: a damaged count times two may be beyond 2^63.
  const std::uint64_t expected = static_cast<std::uint64_t>(tokens) * 2;
  base::check(
      file_.bytes().size() == expected,
      "'{}': expected {} bytes, as meta.json says; got {}: truncated or not "
      "its file, run `data prepare` again",
      path.string(),
      expected,
      file_.bytes().size());
}

std::span<const std::uint16_t> TokenFile::tokens() const {
  const auto bytes = file_.bytes();
  return {
      reinterpret_cast<const std::uint16_t*>(bytes.data()), bytes.size() / 2};
}

namespace {

// Changes when `data prepare` publishes another meta.json. A file's number may
// come again, with another time.
std::tuple<ino_t, time_t, long> version_of(
    const std::filesystem::path& folder) {
  struct stat status {};
  const auto path = find_data_file(folder, "meta.json");
  ::stat(path.c_str(), &status);
  return {status.st_ino, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

}  // namespace

TokenFiles::TokenFiles(const std::filesystem::path& folder)
    : TokenFiles(open(folder)) {}

TokenFiles::TokenFiles(const std::filesystem::path& folder, Metadata read)
    : metadata(std::move(read)),
      train(find_data_file(folder, "train.bin"), metadata.train.tokens),
      validation(
          find_data_file(folder, "val.bin"), metadata.validation.tokens) {}

// One after another, while another process may put others in their place.
TokenFiles TokenFiles::open(const std::filesystem::path& folder) {
  constexpr int kAttempts = 8;
  for (int attempt = 1;; ++attempt) {
    try {
      const auto version = version_of(folder);
      TokenFiles files(folder, read_metadata(folder));
      if (version == version_of(folder) || attempt == kAttempts) {
        return files;
      }
    } catch (const base::InvalidInput&) {
      if (attempt == kAttempts) {
        throw;
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace einforge::data
