// The structure algebra for Python, which builds its modules from it, and the
// library's version.

#include <torch/library.h>

#include <cstdint>
#include <string>

#include "einforge/base/error.h"
#include "einforge/base/version.h"
#include "einforge/structure/json.h"

namespace einforge::ops {
namespace {

// What `make` returns; raises ValueError for what is no structure.
template <typename Make>
std::string text_of(Make make) {
  try {
    return make();
  } catch (const base::InvalidInput& error) {
    TORCH_CHECK_VALUE(false, "[einforge] ", error.what());
  }
}

// structure::to_json of a name at a width, as text.
std::string describe_structure(
    std::string text,
    std::int64_t d_in,
    std::int64_t d_out,
    std::int64_t base_width) {
  return text_of([&] {
    return structure::to_json(
               structure::realise(structure::parse(text), d_in, d_out),
               base_width)
        .dump();
  });
}

// The name as to_json has it, at no width.
std::string normalise_structure(std::string text) {
  return text_of([&] { return structure::parse(text).text; });
}

std::string version() {
  return base::version();
}

TORCH_LIBRARY_FRAGMENT(einforge, m) {
  m.def("version() -> str", TORCH_FN(version));
  m.def(
      "describe_structure(str structure, int d_in, int d_out, "
      "int base_width=768) -> str",
      TORCH_FN(describe_structure));
  m.def(
      "normalise_structure(str structure) -> str",
      TORCH_FN(normalise_structure));
}

}  // namespace
}  // namespace einforge::ops
