#include "einforge/train/coordinates.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "einforge/scaling/student.h"

namespace einforge::train {
namespace {

using base::Json;

bool is_positive(double value) {
  return std::isfinite(value) && value > 0;
}

// Over the last half of a run's steps, of which the first may be none; the
// geometric mean, since what grows does so by factors.
double late(const std::vector<double>& steps) {
  const std::size_t half = steps.size() / 2;
  double sum = 0;
  for (std::size_t i = half; i < steps.size(); ++i) {
    if (!is_positive(steps[i])) {
      return steps[i];
    }
    sum += std::log(steps[i]);
  }
  return std::exp(sum / static_cast<double>(steps.size() - half));
}

std::vector<std::vector<double>> late_values(const Coordinate& coordinate) {
  std::vector<std::vector<double>> values;
  for (const auto& seeds : coordinate.rms) {
    std::ranges::transform(
        seeds, std::back_inserter(values.emplace_back()), late);
  }
  return values;
}

Trend trend_of(const Exponent& exponent) {
  if (exponent.low > kGrowsBeyond) {
    return Trend::kGrows;
  }
  if (exponent.high < -kGrowsBeyond) {
    return Trend::kShrinks;
  }
  if (exponent.low >= -kFlatWithin && exponent.high <= kFlatWithin) {
    return Trend::kFlat;
  }
  return Trend::kUndecided;
}

JudgedCoordinate judge(
    const std::vector<std::int64_t>& widths, Coordinate coordinate) {
  JudgedCoordinate judged{std::move(coordinate), std::nullopt};
  const auto values = late_values(judged.coordinate);
  bool zero = true;
  for (const auto& seeds : values) {
    for (const double value : seeds) {
      zero &= value == 0;
      if (!std::isfinite(value)) {
        judged.trend = Trend::kDiverged;
        return judged;
      }
    }
  }
  judged.exponent = fit_exponent(widths, values);
  if (judged.exponent) {
    judged.trend = trend_of(*judged.exponent);
  } else if (zero) {
    judged.trend = Trend::kShrinks;
  }
  return judged;
}

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) {
    list.push_back(number(value));
  }
  return list;
}

std::string name_of(const Coordinate& coordinate) {
  return coordinate.layer + " " + coordinate.measure;
}

double mean_at(const Coordinate& coordinate, std::size_t width) {
  double sum = 0;
  for (const auto& steps : coordinate.rms[width]) {
    sum += std::log(late(steps));
  }
  return std::exp(sum / static_cast<double>(coordinate.rms[width].size()));
}

std::string exponent_text(const std::optional<Exponent>& exponent) {
  if (!exponent) {
    return "-";
  }
  return std::isfinite(exponent->low) ? fmt::format(
                                            "{:+.2f} ({:+.2f} to {:+.2f})",
                                            exponent->value,
                                            exponent->low,
                                            exponent->high)
                                      : fmt::format("{:+.2f}", exponent->value);
}

std::string verdict_text(const CheckedStructure& structure) {
  std::string text = to_string(structure.verdict);
  if (structure.because) {
    const JudgedCoordinate& one = structure.coordinates[*structure.because];
    text += fmt::format(": {}", name_of(one.coordinate));
    if (one.exponent) {
      text += fmt::format(", width^{}", exponent_text(one.exponent));
    }
  } else if (structure.verdict == Trend::kFlat) {
    text += ": one learning rate serves these widths";
  }
  return text;
}

}  // namespace

std::string to_string(Trend trend) {
  switch (trend) {
    case Trend::kFlat:
      return "flat";
    case Trend::kGrows:
      return "grows";
    case Trend::kShrinks:
      return "shrinks";
    case Trend::kUndecided:
      return "undecided";
    case Trend::kDiverged:
      return "diverged";
  }
  return "unknown";
}

std::optional<Exponent> fit_exponent(
    const std::vector<std::int64_t>& widths,
    const std::vector<std::vector<double>>& values) {
  std::vector<double> x;
  std::vector<double> y;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    for (const double value : values[i]) {
      if (!is_positive(value)) {
        return std::nullopt;
      }
      x.push_back(std::log(static_cast<double>(widths[i])));
      y.push_back(std::log(value));
    }
  }
  const auto n = static_cast<double>(x.size());
  double mean_x = 0;
  double mean_y = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_x += x[i] / n;
    mean_y += y[i] / n;
  }
  double xx = 0;
  double xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
  }
  if (widths.size() < 2) {
    return std::nullopt;
  }
  const double slope = xy / xx;
  double left = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double residual = y[i] - mean_y - slope * (x[i] - mean_x);
    left += residual * residual;
  }
  const std::size_t degrees = x.size() - 2;
  const double reach =
      degrees == 0 ? INFINITY
                   : scaling::student(degrees) *
                         std::sqrt(left / static_cast<double>(degrees) / xx);
  return Exponent{slope, slope - reach, slope + reach};
}

CheckedStructure judge(
    const std::string& structure,
    const std::vector<std::int64_t>& widths,
    std::vector<Coordinate> coordinates) {
  CheckedStructure result{structure, {}, Trend::kFlat, std::nullopt};
  for (Coordinate& coordinate : coordinates) {
    result.coordinates.push_back(judge(widths, std::move(coordinate)));
  }
  const auto size = [&](std::size_t i) {
    const auto& exponent = result.coordinates[i].exponent;
    return exponent ? std::abs(exponent->value) : 0.0;
  };
  for (const Trend trend :
       {Trend::kDiverged, Trend::kGrows, Trend::kShrinks, Trend::kUndecided}) {
    for (std::size_t i = 0; i < result.coordinates.size(); ++i) {
      if (result.coordinates[i].trend == trend &&
          (!result.because || size(i) > size(*result.because))) {
        result.because = i;
      }
    }
    if (result.because) {
      result.verdict = trend;
      break;
    }
  }
  return result;
}

Json to_json(const CheckedModel& checked) {
  Json structures = Json::array();
  for (const CheckedStructure& structure : checked.structures) {
    Json coordinates = Json::array();
    for (const JudgedCoordinate& one : structure.coordinates) {
      Json rms = Json::array();
      for (const auto& seeds : one.coordinate.rms) {
        Json list = Json::array();
        for (const auto& steps : seeds) {
          list.push_back(numbers(steps));
        }
        rms.push_back(std::move(list));
      }
      coordinates.push_back(
          {{"layer", one.coordinate.layer},
           {"measure", one.coordinate.measure},
           {"exponent", one.exponent ? number(one.exponent->value) : Json()},
           {"ci95",
            one.exponent ? numbers({one.exponent->low, one.exponent->high})
                         : Json()},
           {"trend", to_string(one.trend)},
           {"rms", std::move(rms)}});
    }
    structures.push_back(
        {{"structure", structure.structure},
         {"verdict", to_string(structure.verdict)},
         {"because",
          structure.because
              ? Json(name_of(
                    structure.coordinates[*structure.because].coordinate))
              : Json()},
         {"coordinates", std::move(coordinates)}});
  }
  return {
      {"widths", checked.widths},
      {"flat_within", kFlatWithin},
      {"grows_beyond", kGrowsBeyond},
      {"structures", std::move(structures)}};
}

std::string coordinate_table(const CheckedModel& checked) {
  std::string table;
  for (const CheckedStructure& structure : checked.structures) {
    table += fmt::format("{}\n{:<34}", structure.structure, "  RMS at width");
    for (const std::int64_t width : checked.widths) {
      table += fmt::format("{:>10}", width);
    }
    table += "  exponent (95% interval)\n";
    for (const JudgedCoordinate& one : structure.coordinates) {
      table += fmt::format("  {:<32}", name_of(one.coordinate));
      for (std::size_t i = 0; i < checked.widths.size(); ++i) {
        table += fmt::format("{:>10.3g}", mean_at(one.coordinate, i));
      }
      table += fmt::format(
          "  {:<24} {}\n", exponent_text(one.exponent), to_string(one.trend));
    }
    table += "\n";
  }
  std::size_t longest = 0;
  for (const CheckedStructure& structure : checked.structures) {
    longest = std::max(longest, structure.structure.size());
  }
  for (const CheckedStructure& structure : checked.structures) {
    table += fmt::format(
        "{:<{}}  {}\n", structure.structure, longest, verdict_text(structure));
  }
  return table;
}

}  // namespace einforge::train
