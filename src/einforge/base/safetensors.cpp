#include "einforge/base/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/json.h"

namespace einforge::base {
namespace {

static_assert(
    std::endian::native == std::endian::little,
    "safetensors files are little-endian and are mapped as they are");

constexpr std::size_t kLengthBytes = sizeof(std::uint64_t);
// The limit of the reference implementation; a header is a few kB in practice.
constexpr std::uint64_t kLongestHeader = 100'000'000;
constexpr const char* kMetadata = "__metadata__";

// A JSON number as an unsigned integer; negative and fractional ones are no
// sizes.
std::uint64_t read_size(const Json& json, std::string_view what) {
  check(
      json.is_number_unsigned(),
      "safetensors: {}: expected a whole number of at least 0",
      what);
  return json.get<std::uint64_t>();
}

TensorView read_entry(
    const std::string& name,
    const Json& entry,
    std::span<const std::byte> data,
    std::uint64_t& begin) {
  check(
      entry.is_object() && entry.contains("dtype") && entry.contains("shape") &&
          entry.contains("data_offsets"),
      "safetensors: tensor '{}': expected dtype, shape and data_offsets",
      name);
  TensorView tensor;
  tensor.name = name;
  check(
      entry["dtype"].is_string() && entry["shape"].is_array() &&
          entry["data_offsets"].is_array() && entry["data_offsets"].size() == 2,
      "safetensors: tensor '{}': an entry of the wrong type",
      name);
  tensor.dtype = entry["dtype"].get<std::string>();
  std::uint64_t expected = safetensors_item_size(tensor.dtype);
  check(
      expected > 0,
      "safetensors: tensor '{}': unknown dtype '{}'",
      name,
      tensor.dtype);
  for (const Json& item : entry["shape"]) {
    const std::uint64_t size = read_size(item, name);
    check(
        size <= static_cast<std::uint64_t>(
                    std::numeric_limits<std::int64_t>::max()) &&
            !__builtin_mul_overflow(expected, size, &expected),
        "safetensors: tensor '{}': its size overflows",
        name);
    tensor.shape.push_back(static_cast<std::int64_t>(size));
  }
  begin = read_size(entry["data_offsets"][0], name);
  const std::uint64_t end = read_size(entry["data_offsets"][1], name);
  check(
      begin <= end && end <= data.size(),
      "safetensors: tensor '{}': expected data within {} bytes; got {} to {} "
      "(a truncated file?)",
      name,
      data.size(),
      begin,
      end);
  check(
      end - begin == expected,
      "safetensors: tensor '{}': its shape takes {} bytes; got {}",
      name,
      expected,
      end - begin);
  tensor.data = data.subspan(begin, expected);
  return tensor;
}

Json parse_header(std::span<const std::byte> bytes) {
  Json header = parse_json(
      {reinterpret_cast<const char*>(bytes.data()), bytes.size()},
      "safetensors: header");
  check(
      header.is_object(),
      "safetensors: expected a header that is a JSON object");
  return header;
}

}  // namespace

std::size_t safetensors_item_size(std::string_view dtype) {
  static constexpr std::array<std::pair<std::string_view, std::size_t>, 12>
      kSizes = {
          {{"F64", 8},
           {"F32", 4},
           {"F16", 2},
           {"BF16", 2},
           {"I64", 8},
           {"I32", 4},
           {"I16", 2},
           {"I8", 1},
           {"U8", 1},
           {"U16", 2},
           {"U32", 4},
           {"BOOL", 1}}};
  for (const auto& [name, size] : kSizes) {
    if (name == dtype) {
      return size;
    }
  }
  return 0;
}

Safetensors parse_safetensors(std::span<const std::byte> bytes) {
  check(
      bytes.size() >= kLengthBytes,
      "safetensors: expected at least {} bytes; got {}",
      kLengthBytes,
      bytes.size());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  check(
      length <= kLongestHeader && length <= bytes.size() - kLengthBytes,
      "safetensors: expected a header within {} bytes; its length says {}",
      bytes.size() - kLengthBytes,
      length);
  const Json header = parse_header(bytes.subspan(kLengthBytes, length));
  const auto data = bytes.subspan(kLengthBytes + length);

  Safetensors content;
  std::vector<std::pair<std::uint64_t, TensorView>> found;
  for (const auto& item : header.items()) {
    if (item.key() == kMetadata) {
      check(
          item.value().is_object(),
          "safetensors: metadata is not a JSON object");
      for (const auto& entry : item.value().items()) {
        check(
            entry.value().is_string(),
            "safetensors: metadata '{}' is not a string",
            entry.key());
        content.metadata[entry.key()] = entry.value().get<std::string>();
      }
      continue;
    }
    std::uint64_t begin = 0;
    TensorView tensor = read_entry(item.key(), item.value(), data, begin);
    found.emplace_back(begin, std::move(tensor));
  }
  std::stable_sort(
      found.begin(), found.end(), [](const auto& a, const auto& b) {
        // An empty tensor begins where its neighbour does.
        return std::pair(a.first, a.second.data.size()) <
               std::pair(b.first, b.second.data.size());
      });
  std::uint64_t end = 0;
  for (auto& [begin, tensor] : found) {
    check(
        begin == end,
        "safetensors: tensor '{}': expected its data at byte {}; got {}",
        tensor.name,
        end,
        begin);
    end += tensor.data.size();
    content.tensors.push_back(std::move(tensor));
  }
  check(
      end == data.size(),
      "safetensors: expected {} bytes of data; got {}",
      end,
      data.size());
  return content;
}

void write_safetensors(
    const std::filesystem::path& path, const Safetensors& content) {
  Json header = Json::object();
  if (!content.metadata.empty()) {
    header[kMetadata] = content.metadata;
  }
  std::uint64_t begin = 0;
  for (const TensorView& tensor : content.tensors) {
    const std::uint64_t end = begin + tensor.data.size();
    add_member(
        header,
        tensor.name,
        {{"dtype", tensor.dtype},
         {"shape", tensor.shape},
         {"data_offsets", {begin, end}}});
    begin = end;
  }
  std::string text = dump_json(header);
  // Padded with spaces so that the data starts aligned for any dtype.
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();

  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const TensorView& tensor : content.tensors) {
    file.write(tensor.data);
  }
  file.publish();
}

}  // namespace einforge::base
