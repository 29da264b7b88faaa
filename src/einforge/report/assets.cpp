#include "einforge/report/assets.h"

// A string literal of plotly's 5 MB would take a compiler minutes; the
// assembler copies the bytes as they are.
#define EINFORGE_EMBED(name, file)               \
  __asm__(                                       \
      ".pushsection .rodata\n"                   \
      ".global einforge_asset_" #name            \
      "\n"                                       \
      ".global einforge_asset_" #name            \
      "_end\n"                                   \
      "einforge_asset_" #name                    \
      ":\n"                                      \
      ".incbin \"" file                          \
      "\"\n"                                     \
      "einforge_asset_" #name                    \
      "_end:\n"                                  \
      ".byte 0\n"                                \
      ".popsection\n");                          \
  extern "C" const char einforge_asset_##name[]; \
  extern "C" const char einforge_asset_##name##_end[]

EINFORGE_EMBED(markup, EINFORGE_ASSETS "/page.html");
EINFORGE_EMBED(style, EINFORGE_ASSETS "/page.css");
EINFORGE_EMBED(tables, EINFORGE_ASSETS "/tables.js");
EINFORGE_EMBED(sections, EINFORGE_ASSETS "/sections.js");
EINFORGE_EMBED(plots, EINFORGE_ASSETS "/plots.js");
EINFORGE_EMBED(page, EINFORGE_ASSETS "/page.js");
EINFORGE_EMBED(plotly, EINFORGE_PLOTLY);

namespace einforge::report::assets {

std::string_view markup() {
  return {einforge_asset_markup, einforge_asset_markup_end};
}
std::string_view style() {
  return {einforge_asset_style, einforge_asset_style_end};
}
std::string_view tables() {
  return {einforge_asset_tables, einforge_asset_tables_end};
}
std::string_view sections() {
  return {einforge_asset_sections, einforge_asset_sections_end};
}
std::string_view plots() {
  return {einforge_asset_plots, einforge_asset_plots_end};
}
std::string_view page() {
  return {einforge_asset_page, einforge_asset_page_end};
}
std::string_view plotly() {
  return {einforge_asset_plotly, einforge_asset_plotly_end};
}

}  // namespace einforge::report::assets
