// Fuzzes the reader of checkpoints' tensors.
#include <cstring>
#include <span>

#include "einforge/base/error.h"
#include "einforge/base/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace base = einforge::base;

namespace {

std::string file(const std::string& header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data, '\x3f');
}

}  // namespace

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      file("{}", 0),
      file(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})", 24),
      file(
          R"({"__metadata__":{"format":"pt"},)"
          R"("b":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
          R"("c":{"dtype":"BF16","shape":[0,4],"data_offsets":[8,8]},)"
          R"("d":{"dtype":"U8","shape":[5],"data_offsets":[8,13]}})",
          13)};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const base::Safetensors content = base::parse_safetensors(bytes);
    std::size_t total = 0;
    for (const base::TensorView& tensor : content.tensors) {
      std::size_t items = 1;
      for (const std::int64_t length : tensor.shape) {
        einforge::fuzz::require(length >= 0, "sizes are not negative");
        items *= static_cast<std::size_t>(length);
      }
      einforge::fuzz::require(
          items * base::safetensors_item_size(tensor.dtype) ==
              tensor.data.size(),
          "a tensor has the bytes of its shape");
      einforge::fuzz::require(
          tensor.data.empty() || (tensor.data.data() >= bytes.data() &&
                                  tensor.data.data() + tensor.data.size() <=
                                      bytes.data() + bytes.size()),
          "a tensor lies within the file");
      total += tensor.data.size();
    }
    einforge::fuzz::require(
        total <= size, "tensors together are no larger than the file");
  } catch (const base::InvalidInput&) {
    // What a damaged file must lead to.
  }
  return 0;
}
