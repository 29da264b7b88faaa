#pragma once

#include <unicode/utypes.h>

#include "einforge/base/error.h"

namespace einforge::data {

// Throws base::IoError for what can only be a damaged installation of ICU.
inline void check_icu(UErrorCode error) {
  if (U_FAILURE(error)) {
    throw base::IoError(fmt::format(
        "cannot use Unicode's tables (ICU): {}", u_errorName(error)));
  }
}

}  // namespace einforge::data
