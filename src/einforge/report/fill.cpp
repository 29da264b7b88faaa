#include "einforge/report/fill.h"

namespace einforge::report {

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

std::string fill(
    std::string_view markup,
    const std::vector<std::pair<std::string_view, std::string_view>>& parts) {
  std::string html;
  for (const auto& [mark, text] : parts) {
    const std::size_t at = markup.find(mark);
    html.append(markup.substr(0, at)).append(text);
    markup.remove_prefix(at + mark.size());
  }
  return html.append(markup);
}

}  // namespace einforge::report
