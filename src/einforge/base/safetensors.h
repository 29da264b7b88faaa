#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::base {

// A named tensor in a safetensors file: little-endian, row-major, no strides.
struct TensorView {
  std::string name;
  std::string dtype;  // "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

struct Safetensors {
  std::vector<TensorView> tensors;  // in the order of their data
  std::map<std::string, std::string> metadata;
};

// Bytes an element of a safetensors dtype; 0 when it is none.
std::size_t safetensors_item_size(std::string_view dtype);

// Reads a safetensors file from memory; the views point into `bytes`. Trusts
// nothing: every size is checked against the bytes that are there, and the
// tensors must tile them without a hole or an overlap.
// Throws InvalidInput whose message continues "'FILE': ".
// Format: https://huggingface.co/docs/safetensors
Safetensors parse_safetensors(std::span<const std::byte> bytes);

// Writes a file as AtomicFile does. Throws IoError.
void write_safetensors(
    const std::filesystem::path& path, const Safetensors& content);

}  // namespace einforge::base
