// Fuzzes the reader of checkpoint tensors; see scripts/fuzz.sh.
#include <cstddef>
#include <cstdint>
#include <span>

#include "einforge/base/error.h"
#include "einforge/base/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  try {
    const auto content =
        einforge::base::parse_safetensors(std::as_bytes(std::span(data, size)));
    unsigned sum = 0;
    for (const auto& tensor : content.tensors) {
      // Touches all the bytes that a reader would.
      for (const std::byte byte : tensor.data) {
        sum += static_cast<unsigned>(byte);
      }
    }
    volatile unsigned sink = sum;
    static_cast<void>(sink);
  } catch (const einforge::base::InvalidInput&) {
    // What a damaged file must lead to.
  }
  return 0;
}
