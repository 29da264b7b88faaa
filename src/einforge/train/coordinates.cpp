#include "einforge/train/coordinates.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "einforge/scaling/student.h"

namespace einforge::train {
namespace {

using base::Json;

bool is_positive(double value) {
  return std::isfinite(value) && value > 0;
}

// Of a run over its steps: some may be zero, as the effect of an expert's core
// on tokens that never choose it.
double over_steps(const std::vector<double>& steps) {
  double sum = 0;
  for (const double value : steps) {
    sum += value * value;
  }
  return std::sqrt(sum / static_cast<double>(steps.size()));
}

// [width][seed]
std::vector<std::vector<double>> values_of(const Coordinate& coordinate) {
  std::vector<std::vector<double>> values;
  for (const auto& seeds : coordinate.rms) {
    std::ranges::transform(
        seeds, std::back_inserter(values.emplace_back()), over_steps);
  }
  return values;
}

Trend trend_of(const Exponent& exponent, double within) {
  if (exponent.low > within) {
    return Trend::kGrows;
  }
  if (exponent.high < -within) {
    return Trend::kShrinks;
  }
  if (exponent.low90 >= -within && exponent.high90 <= within) {
    return Trend::kFlat;
  }
  return Trend::kUndecided;
}

JudgedCoordinate judge_alone(
    const std::vector<std::int64_t>& widths, Coordinate coordinate) {
  JudgedCoordinate judged{std::move(coordinate), std::nullopt};
  const auto values = values_of(judged.coordinate);
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
    judged.trend = trend_of(*judged.exponent, kAloneWithin);
  } else if (zero) {
    judged.trend = Trend::kShrinks;
  }
  return judged;
}

std::string layers_of(const Coordinate& coordinate) {
  if (coordinate.layer.ends_with("router")) {
    return "routers";
  }
  return coordinate.layer == "head" ? "head" : "layers";
}

// The logarithms' mean over layers, by width and seed.
std::vector<PooledCoordinate> pool(
    const std::vector<std::int64_t>& widths,
    const std::vector<JudgedCoordinate>& coordinates) {
  struct Sum {
    std::vector<std::vector<double>> logs;
    double count = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums;
  for (const JudgedCoordinate& one : coordinates) {
    if (!one.exponent) {
      continue;
    }
    const auto values = values_of(one.coordinate);
    Sum& sum = sums[{layers_of(one.coordinate), one.coordinate.measure}];
    sum.logs.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      sum.logs[i].resize(values[i].size());
      for (std::size_t seed = 0; seed < values[i].size(); ++seed) {
        sum.logs[i][seed] += std::log(values[i][seed]);
      }
    }
    ++sum.count;
  }
  std::vector<PooledCoordinate> pooled;
  for (auto& [key, sum] : sums) {
    PooledCoordinate one{key.first, key.second, {}, {}, {}};
    std::vector<std::vector<double>> values = sum.logs;
    for (auto& seeds : values) {
      double log = 0;
      for (double& value : seeds) {
        value /= sum.count;
        log += value / static_cast<double>(seeds.size());
        value = std::exp(value);
      }
      one.rms.push_back(std::exp(log));
    }
    one.exponent = *fit_exponent(widths, values);
    one.trend = trend_of(one.exponent, kFlatWithin);
    pooled.push_back(std::move(one));
  }
  return pooled;
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
    sum += std::log(over_steps(steps));
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
  if (!structure.because.empty()) {
    text += ": " + structure.because;
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
  const double error =
      degrees == 0 ? 1 : std::sqrt(left / static_cast<double>(degrees) / xx);
  const double reach = scaling::student(degrees) * error;
  const double reach90 = scaling::student90(degrees) * error;
  return Exponent{
      slope, slope - reach, slope + reach, slope - reach90, slope + reach90};
}

CheckedStructure judge(
    const std::string& structure,
    const std::vector<std::int64_t>& widths,
    std::vector<Coordinate> coordinates) {
  CheckedStructure result{structure, {}, {}, Trend::kFlat, {}};
  for (Coordinate& coordinate : coordinates) {
    result.coordinates.push_back(judge_alone(widths, std::move(coordinate)));
  }
  result.pooled = pool(widths, result.coordinates);
  for (const Trend trend :
       {Trend::kDiverged, Trend::kGrows, Trend::kShrinks, Trend::kUndecided}) {
    double most = -1;
    const auto consider = [&](const std::string& name,
                              const std::optional<Exponent>& exponent) {
      const double size = exponent ? std::abs(exponent->value) : 0;
      if (size > most) {
        most = size;
        result.verdict = trend;
        result.because =
            exponent
                ? fmt::format("{}, width^{}", name, exponent_text(exponent))
                : name;
      }
    };
    for (const PooledCoordinate& one : result.pooled) {
      // Changes follow the last few batches: too noisy to leave one open.
      if (one.trend == trend &&
          (trend != Trend::kUndecided || one.measure != "change")) {
        consider(one.layers + " " + one.measure, one.exponent);
      }
    }
    if (most < 0) {
      for (const JudgedCoordinate& one : result.coordinates) {
        // By itself a layer is too imprecise to leave a verdict open, unless
        // it could not be pooled.
        if (one.trend == trend &&
            (trend != Trend::kUndecided || !one.exponent)) {
          consider(name_of(one.coordinate), one.exponent);
        }
      }
    }
    if (most >= 0) {
      return result;
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
    Json pooled = Json::array();
    for (const PooledCoordinate& one : structure.pooled) {
      pooled.push_back(
          {{"layers", one.layers},
           {"measure", one.measure},
           {"exponent", number(one.exponent.value)},
           {"ci95", numbers({one.exponent.low, one.exponent.high})},
           {"ci90", numbers({one.exponent.low90, one.exponent.high90})},
           {"trend", to_string(one.trend)},
           {"rms", numbers(one.rms)}});
    }
    structures.push_back(
        {{"structure", structure.structure},
         {"verdict", to_string(structure.verdict)},
         {"because",
          structure.because.empty() ? Json() : Json(structure.because)},
         {"pooled", std::move(pooled)},
         {"coordinates", std::move(coordinates)}});
  }
  return {
      {"widths", checked.widths},
      {"flat_within", kFlatWithin},
      {"alone_within", kAloneWithin},
      {"structures", std::move(structures)}};
}

std::string coordinate_table(const CheckedModel& checked) {
  std::string table;
  const auto line = [&](const std::string& name,
                        const std::vector<double>& values,
                        const std::optional<Exponent>& exponent,
                        Trend trend) {
    table += fmt::format("  {:<32}", name);
    for (const double value : values) {
      table += fmt::format("{:>10.3g}", value);
    }
    table +=
        fmt::format("  {:<24} {}\n", exponent_text(exponent), to_string(trend));
  };
  for (const CheckedStructure& structure : checked.structures) {
    table += fmt::format("{}\n{:<34}", structure.structure, "  RMS at width");
    for (const std::int64_t width : checked.widths) {
      table += fmt::format("{:>10}", width);
    }
    table += "  exponent (95% interval)\n";
    for (const PooledCoordinate& one : structure.pooled) {
      line(one.layers + " " + one.measure, one.rms, one.exponent, one.trend);
    }
    table += "  of each kind of layer\n";
    for (const JudgedCoordinate& one : structure.coordinates) {
      std::vector<double> values;
      for (std::size_t i = 0; i < checked.widths.size(); ++i) {
        values.push_back(mean_at(one.coordinate, i));
      }
      line(name_of(one.coordinate), values, one.exponent, one.trend);
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
