// Fuzzes the reader of NumPy's arrays.
#include <cstring>
#include <span>

#include "einforge/base/error.h"
#include "einforge/data/foreign_tokens.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/layout.h"

namespace {

std::string array(char version, const std::string& header, std::size_t bytes) {
  std::string file = "\x93NUMPY";
  file += version;
  file += '\0';
  file += static_cast<char>(header.size());
  file += std::string(version == 1 ? 1 : 3, '\0');
  return file + header + std::string(bytes, '\x01');
}

}  // namespace

std::vector<std::string> einforge::fuzz::seeds() {
  return {
      array(1, "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }", 6),
      array(
          2,
          "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n",
          24),
      array(3, "{'shape': (), 'descr': '|u1', 'fortran_order': True}", 1),
      array(1, "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", 6),
      array(
          1,
          "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (3,)}",
          6),
      array(
          1,
          "{'descr': '<u8', 'fortran_order': False, 'shape': "
          "(4294967296, 4294967296), }",
          6)};
}

extern "C" int LLVMFuzzerTestOneInput(
    const std::uint8_t* bytes, std::size_t size) {
  const auto file = std::as_bytes(std::span(bytes, size));
  try {
    einforge::fuzz::read_all(einforge::data::read_npy(file), file);
  } catch (const einforge::base::InvalidInput& error) {
    einforge::fuzz::require(
        std::strchr(error.what(), '\n') == nullptr, "an error is one line");
  }
  return 0;
}
