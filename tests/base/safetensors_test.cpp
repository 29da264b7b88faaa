#include "einforge/base/safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/random.h"
#include "tests/base/temporary_directory.h"

namespace einforge::base {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A file with this header and so many bytes of data.
std::string file(const std::string& header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data, '\x01');
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const std::vector<float> weights = {1.5F, -2, 3, 4, 5, 6};
  const std::vector<std::int64_t> steps = {7};
  Safetensors content;
  content.metadata["format"] = "pt";
  content.tensors = {
      {"w", "F32", {2, 3}, std::as_bytes(std::span(weights))},
      {"empty", "F32", {0, 5}, {}},
      {"step", "I64", {}, std::as_bytes(std::span(steps))}};
  const auto path =
      std::filesystem::temp_directory_path() / "safetensors_test.safetensors";
  write_safetensors(path, content);
  const std::string written = read_file(path);
  std::filesystem::remove(path);

  const Safetensors read = parse_safetensors(bytes_of(written));
  EXPECT_EQ(read.metadata.at("format"), "pt");
  ASSERT_EQ(read.tensors.size(), 3U);
  for (const TensorView& tensor : read.tensors) {
    if (tensor.name == "w") {
      EXPECT_EQ(tensor.dtype, "F32");
      EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{2, 3}));
      ASSERT_EQ(tensor.data.size(), 24U);
      EXPECT_EQ(std::memcmp(tensor.data.data(), weights.data(), 24), 0);
    } else if (tensor.name == "step") {
      EXPECT_TRUE(tensor.shape.empty());
      EXPECT_EQ(std::memcmp(tensor.data.data(), steps.data(), 8), 0);
    } else {
      EXPECT_EQ(tensor.shape, (std::vector<std::int64_t>{0, 5}));
    }
  }
}

TEST(Safetensors, ALinkStaysAndWhatItLeadsToIsReplaced) {
  const testing::TemporaryDirectory folder;
  write_file_atomically(folder / "file", "old");
  std::filesystem::create_symlink("file", folder / "link");
  write_safetensors(folder / "link", {});
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_NE(read_file(folder / "file"), "old");
}

TEST(Safetensors, UnwritablePlaceIsAnIoError) {
  EXPECT_THROW(write_safetensors("/nonexistent/x.safetensors", {}), IoError);
  EXPECT_THROW(write_safetensors("/dev/full", {}), IoError);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
}

std::string entry(
    const std::string& dtype,
    const std::string& shape,
    const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape +
         R"(,"data_offsets":)" + offsets + "}}";
}

TEST(Safetensors, HostileHeadersAreRefused) {
  const std::string huge(400, '[');
  std::string long_header = file("{}", 0);
  const std::uint64_t length = std::numeric_limits<std::uint64_t>::max();
  std::memcpy(long_header.data(), &length, sizeof(length));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"empty", ""},
      {"short", "\x01\x02\x03"},
      {"length past the end", file("{}", 0).substr(0, 9)},
      {"length overflows", long_header},
      {"no JSON", file("hello", 0)},
      {"no object", file("[]", 0)},
      {"deep", file(huge, 0)},
      {"data without tensor", file("{}", 1)},
      {"entry no object", file(R"({"t":3})", 0)},
      {"no dtype", file(R"({"t":{"shape":[],"data_offsets":[0,0]}})", 0)},
      {"unknown dtype", file(entry("F33", "[1]", "[0,4]"), 4)},
      {"dtype no string",
       file(R"({"t":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4)},
      {"shape no list", file(entry("F32", "4", "[0,4]"), 4)},
      {"negative size", file(entry("F32", "[-1]", "[0,4]"), 4)},
      {"fractional size", file(entry("F32", "[1.5]", "[0,4]"), 4)},
      {"size overflows",
       file(entry("F32", "[4611686018427387904,4]", "[0,4]"), 4)},
      {"wraps to zero",
       file(entry("F32", "[4294967296,4294967296]", "[0,0]"), 0)},
      {"beyond int64", file(entry("U8", "[18446744073709551615]", "[0,4]"), 4)},
      {"one offset", file(entry("F32", "[1]", "[0]"), 4)},
      {"offsets backwards", file(entry("F32", "[1]", "[4,0]"), 4)},
      {"offset beyond", file(entry("F32", "[1]", "[4,8]"), 4)},
      {"offset negative", file(entry("F32", "[1]", "[-4,0]"), 4)},
      {"truncated data", file(entry("F32", "[2]", "[0,8]"), 7)},
      {"trailing data", file(entry("F32", "[1]", "[0,4]"), 5)},
      {"hole", file(entry("F32", "[1]", "[4,8]"), 8)},
      {"size and offsets differ", file(entry("F32", "[2]", "[0,4]"), 4)},
      {"overlap",
       file(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
           R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
           6)},
      {"metadata no object", file(R"({"__metadata__":[]})", 0)},
      {"metadata no string", file(R"({"__metadata__":{"a":1}})", 0)}};
  for (const auto& [name, bytes] : cases) {
    try {
      parse_safetensors(bytes_of(bytes));
      ADD_FAILURE() << name << ": expected an error";
    } catch (const InvalidInput& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
}

// Bit flips and cuts of a good file either read or throw InvalidInput.
TEST(Safetensors, DamageNeverDoesAnythingElse) {
  const std::string good = file(
      R"({"__metadata__":{"k":"v"},)"
      R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
      32);
  Random random(1);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bad = good;
    bad[random.below(good.size() - 32)] ^=
        static_cast<char>(1U << random.below(8));
    if (i % 3 == 0) {
      bad.resize(random.below(bad.size()));
    }
    try {
      const Safetensors read = parse_safetensors(bytes_of(bad));
      for (const TensorView& tensor : read.tensors) {
        ASSERT_LE(tensor.data.size(), 32U);
      }
    } catch (const InvalidInput&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10'000);
}

}  // namespace
}  // namespace einforge::base
