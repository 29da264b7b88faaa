#include "einforge/base/error.h"

#include <system_error>

namespace einforge::base {

void throw_io_error(std::string_view what, int error_number) {
  throw IoError(fmt::format(
      "{}: {}", what, std::generic_category().message(error_number)));
}

}  // namespace einforge::base
