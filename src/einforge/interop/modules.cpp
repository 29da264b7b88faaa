#include "einforge/interop/modules.h"

// The assembler copies the bytes as they are.
#define EINFORGE_EMBED(name)                      \
  __asm__(                                        \
      ".pushsection .rodata\n"                    \
      ".global einforge_module_" #name            \
      "\n"                                        \
      ".global einforge_module_" #name            \
      "_end\n"                                    \
      "einforge_module_" #name                    \
      ":\n"                                       \
      ".incbin \"" EINFORGE_MODULES "/" #name     \
      ".py\"\n"                                   \
      "einforge_module_" #name                    \
      "_end:\n"                                   \
      ".byte 0\n"                                 \
      ".popsection\n");                           \
  extern "C" const char einforge_module_##name[]; \
  extern "C" const char einforge_module_##name##_end[]

EINFORGE_EMBED(models);
EINFORGE_EMBED(modeling_einforge);

namespace einforge::interop::modules {

std::string_view models() {
  return {einforge_module_models, einforge_module_models_end};
}
std::string_view modeling_einforge() {
  return {
      einforge_module_modeling_einforge, einforge_module_modeling_einforge_end};
}

}  // namespace einforge::interop::modules
