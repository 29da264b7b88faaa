#include "einforge/report/assets.h"

#include "einforge/base/embed.h"

EINFORGE_EMBED(einforge_asset_markup, EINFORGE_ASSETS "/page.html");
EINFORGE_EMBED(einforge_asset_style, EINFORGE_ASSETS "/page.css");
EINFORGE_EMBED(einforge_asset_tables, EINFORGE_ASSETS "/tables.js");
EINFORGE_EMBED(einforge_asset_sections, EINFORGE_ASSETS "/sections.js");
EINFORGE_EMBED(einforge_asset_plots, EINFORGE_ASSETS "/plots.js");
EINFORGE_EMBED(einforge_asset_page, EINFORGE_ASSETS "/page.js");
EINFORGE_EMBED(einforge_asset_coordinates, EINFORGE_ASSETS "/coordinates.html");
EINFORGE_EMBED(einforge_asset_plotly, EINFORGE_PLOTLY);

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
std::string_view coordinates() {
  return {einforge_asset_coordinates, einforge_asset_coordinates_end};
}
std::string_view plotly() {
  return {einforge_asset_plotly, einforge_asset_plotly_end};
}

}  // namespace einforge::report::assets
