// Fuzzes the reader of Megatron's index: the first two bytes are the size of
// its .bin, the others the index.
#include <algorithm>
#include <cstring>
#include <span>

#include "einforge/base/error.h"
#include "einforge/data/foreign_tokens.h"
#include "tests/fuzz/fuzz.h"

namespace data = einforge::data;

namespace {

template <typename T>
std::string numbers(const std::vector<T>& values) {
  return {
      reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string index(
    std::uint16_t size,
    char code,
    const std::vector<std::int32_t>& lengths,
    const std::vector<std::int64_t>& pointers,
    const std::vector<std::int64_t>& documents) {
  return numbers<std::uint16_t>({size}) + std::string("MMIDIDX\0\0", 9) +
         numbers<std::uint64_t>({1}) + code +
         numbers<std::uint64_t>({lengths.size(), documents.size()}) +
         numbers(lengths) + numbers(pointers) + numbers(documents);
}

}  // namespace

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      index(12, 8, {1, 2, 3}, {0, 2, 6}, {0, 1, 3}),
      index(24, 4, {1, 2, 3}, {0, 4, 12}, {0, 3}),
      index(0, 1, {}, {}, {0}),
      index(6, 1, {6, 0}, {0, 6}, {0, 1, 1, 2}),
      index(12, 8, {1, -2, 3}, {0, 2, 6}, {0, 1, 3})};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* bytes, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  const std::int64_t data_bytes = bytes[0] + 256 * bytes[1];
  try {
    const data::MegatronIndex index(
        std::as_bytes(std::span(bytes, size).subspan(2)), data_bytes);
    const data::TokenLayout& layout = index.layout();
    einforge::fuzz::require(
        layout.tokens * layout.width == data_bytes, "the tokens fill the .bin");
    std::int64_t last = 0;
    const std::int64_t step = std::max<std::int64_t>(1, layout.tokens / 64);
    for (std::int64_t place = 0; place <= layout.tokens; place += step) {
      const std::int64_t boundary = index.boundary(place);
      einforge::fuzz::require(
          boundary >= place && boundary >= last && boundary <= layout.tokens,
          "a boundary is at or after its place");
      last = boundary;
      einforge::fuzz::require(
          index.documents(0, place) + index.documents(place, layout.tokens) ==
              index.documents(0, layout.tokens),
          "a document is on one side");
    }
  } catch (const einforge::base::InvalidInput& error) {
    einforge::fuzz::require(
        std::strchr(error.what(), '\n') == nullptr, "an error is one line");
  }
  return 0;
}
