#include "einforge/report/coordinate_page.h"

#include <string_view>
#include <utility>

#include "einforge/report/assets.h"
#include "einforge/report/fill.h"

namespace einforge::report {

std::string coordinate_page(const base::Json& checked) {
  const std::string json = escape_for_script(base::dump_json(checked, -1));
  return fill(
      assets::coordinates(),
      {{"{{style}}", assets::style()},
       {"{{data}}", json},
       {"{{plotly}}", assets::plotly()}});
}

}  // namespace einforge::report
