#include "einforge/data/token_files.h"

#include <bit>

#include "einforge/base/error.h"

namespace einforge::data {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "token files are little-endian and read in place");

}  // namespace

TokenFile::TokenFile(const std::filesystem::path& path, std::int64_t tokens)
    : path_(path), file_(path) {
  base::check(
      file_.bytes().size() == static_cast<std::size_t>(tokens) * 2,
      "'{}': expected {} bytes, as meta.json says; got {}: truncated or not "
      "its file, run `data prepare` again",
      path.string(),
      tokens * 2,
      file_.bytes().size());
}

std::span<const std::uint16_t> TokenFile::tokens() const {
  const auto bytes = file_.bytes();
  return {
      reinterpret_cast<const std::uint16_t*>(bytes.data()), bytes.size() / 2};
}

TokenFiles::TokenFiles(const std::filesystem::path& folder)
    : metadata(read_metadata(folder)),
      train(folder / "train.bin", metadata.train.tokens),
      validation(folder / "val.bin", metadata.validation.tokens) {}

}  // namespace einforge::data
