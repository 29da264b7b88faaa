#include "einforge/report/confirmation.h"

namespace einforge::report {

std::string confirmation(const base::Json& metadata) {
  if (!metadata.is_object()) {
    return "";
  }
  const auto found = metadata.find("confirmation");
  return found != metadata.end() && found->is_string()
             ? found->get<std::string>()
             : "";
}

}  // namespace einforge::report
