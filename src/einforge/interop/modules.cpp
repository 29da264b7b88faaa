#include "einforge/interop/modules.h"

#include "einforge/base/embed.h"

EINFORGE_EMBED(einforge_module_models, EINFORGE_MODULES "/models.py");
EINFORGE_EMBED(
    einforge_module_modeling_einforge,
    EINFORGE_MODULES "/modeling_einforge.py");

namespace einforge::interop::modules {

std::string_view models() {
  return {einforge_module_models, einforge_module_models_end};
}
std::string_view modeling_einforge() {
  return {
      einforge_module_modeling_einforge, einforge_module_modeling_einforge_end};
}

}  // namespace einforge::interop::modules
