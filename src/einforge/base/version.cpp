#include "einforge/base/version.h"

namespace einforge::base {

std::string version() {
  return EINFORGE_VERSION;
}

std::string compiler() {
#if defined(__clang__)
  return "clang++ " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

}  // namespace einforge::base
