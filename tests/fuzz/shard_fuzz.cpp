// Fuzzes the readers of shards and of tokens without a header: what they say of
// a file lies within it.
#include <cstring>
#include <span>

#include "einforge/base/error.h"
#include "einforge/data/foreign_tokens.h"
#include "einforge/data/token_files.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/layout.h"

namespace data = einforge::data;

namespace {

std::string shard(
    std::int32_t magic,
    std::int32_t version,
    std::int32_t tokens,
    std::size_t bytes) {
  std::string file(1024, '\0');
  std::memcpy(file.data(), &magic, 4);
  std::memcpy(file.data() + 4, &version, 4);
  std::memcpy(file.data() + 8, &tokens, 4);
  return file + std::string(bytes, '\x07');
}

}  // namespace

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      shard(20240520, 1, 5, 10),
      shard(20240801, 7, 3, 12),
      shard(20240801, 1, 0, 0),
      shard(20240520, 1, -1, 8),
      shard(20240521, 1, 5, 10),
      std::string(100, '\x01'),
      ""};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* bytes, std::size_t size) {
  const auto file = std::as_bytes(std::span(bytes, size));
  try {
    if (data::has_shard_header(file)) {
      einforge::fuzz::read_all(data::read_shard(file), file);
    } else {
      for (const std::int64_t width : {2, 4}) {
        einforge::fuzz::read_all(data::read_headerless(file, width), file);
      }
    }
  } catch (const einforge::base::InvalidInput& error) {
    einforge::fuzz::require(
        std::strchr(error.what(), '\n') == nullptr, "an error is one line");
  }
  return 0;
}
