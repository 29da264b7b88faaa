#include "einforge/report/html.h"

#include <string_view>
#include <utility>

#include "einforge/report/assets.h"
#include "einforge/report/json.h"
#include "einforge/report/page.h"

namespace einforge::report {
namespace {

// JSON inside a script element: '<' could end the element.
std::string escape_for_script(const std::string& json) {
  std::string escaped;
  escaped.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      escaped += "\\u003c";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

}  // namespace

std::string to_html(const Summary& summary) {
  const std::string json = escape_for_script(dump(page_data(summary), -1));
  const std::pair<std::string_view, std::string_view> parts[] = {
      {"{{style}}", assets::style()},
      {"{{data}}", json},
      {"{{plotly}}", assets::plotly()},
      {"{{tables}}", assets::tables()},
      {"{{sections}}", assets::sections()},
      {"{{plots}}", assets::plots()},
      {"{{page}}", assets::page()}};
  // In the template's order, so that nothing in a part is taken for a mark.
  std::string html;
  std::string_view rest = assets::markup();
  for (const auto& [mark, text] : parts) {
    const std::size_t at = rest.find(mark);
    html.append(rest.substr(0, at)).append(text);
    rest.remove_prefix(at + mark.size());
  }
  return html.append(rest);
}

}  // namespace einforge::report
