#include "einforge/report/html.h"

#include "einforge/report/assets.h"
#include "einforge/report/fill.h"
#include "einforge/report/json.h"
#include "einforge/report/page.h"

namespace einforge::report {

std::string to_html(const Summary& summary) {
  const std::string json = escape_for_script(dump(page_data(summary), -1));
  return fill(
      assets::markup(),
      {{"{{style}}", assets::style()},
       {"{{data}}", json},
       {"{{plotly}}", assets::plotly()},
       {"{{tables}}", assets::tables()},
       {"{{sections}}", assets::sections()},
       {"{{plots}}", assets::plots()},
       {"{{page}}", assets::page()}});
}

}  // namespace einforge::report
