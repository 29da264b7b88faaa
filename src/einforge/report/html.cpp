#include "einforge/report/html.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "einforge/report/assets.h"
#include "einforge/report/json.h"

namespace einforge::report {
namespace {

using base::Json;

// More points than a plot is wide only make the page heavy.
constexpr std::size_t kMostPoints = 400;

Json curve_json(const std::vector<store::CurvePoint>& curve) {
  const std::size_t stride = (curve.size() + kMostPoints - 1) / kMostPoints;
  Json columns = Json::object();
  for (const char* key :
       {"tokens", "flops", "seconds", "train_loss", "val_loss"}) {
    columns[key] = Json::array();
  }
  const auto add = [&](const char* key, double value) {
    columns[key].push_back(std::isfinite(value) ? Json(value) : Json());
  };
  for (std::size_t i = 0; i < curve.size(); ++i) {
    // The last point is always kept: it is the one that tables show.
    if (i % stride == 0 || i + 1 == curve.size()) {
      add("tokens", static_cast<double>(curve[i].tokens));
      add("flops", curve[i].flops);
      add("seconds", curve[i].seconds);
      add("train_loss", curve[i].train_loss);
      add("val_loss", curve[i].val_loss);
    }
  }
  return columns;
}

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
  Json data = to_json(summary);
  data["curves"] = Json::object();
  for (const TrialRecord& record : summary.trials) {
    if (!record.curve.empty()) {
      data["curves"][record.trial.id] = curve_json(record.curve);
    }
  }
  const std::string json = escape_for_script(dump(data, -1));
  const std::pair<std::string_view, std::string_view> parts[] = {
      {"{{style}}", assets::style()},
      {"{{data}}", json},
      {"{{plotly}}", assets::plotly()},
      {"{{tables}}", assets::tables()},
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
