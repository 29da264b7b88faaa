#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/json.h"

// What a coordinate check measured, and what follows: known without Torch.
// Source: arXiv 2203.03466, appendix D.1.
namespace einforge::train {

// How a quantity goes with width, as far as measured.
enum class Trend { kFlat, kGrows, kShrinks, kUndecided, kDiverged };
// "flat", "grows", "shrinks", "undecided", "diverged".
std::string to_string(Trend trend);

// A wrong power of the width in a learning rate or a standard deviation is a
// half at least. A quantity grows or shrinks if the whole interval of its
// exponent is nearer to that than to none; it is flat if the interval leaves
// out a half.
inline constexpr double kGrowsBeyond = 0.25;
inline constexpr double kFlatWithin = 0.5;

// rms = c width^exponent, a least squares line through the logarithms.
struct Exponent {
  double value = 0;
  // 95%, Student's t of the line's residuals; infinite for two points.
  double low = 0;
  double high = 0;
};

// Of one value for each width and seed; absent where one is no positive number
// or there is only one width.
std::optional<Exponent> fit_exponent(
    const std::vector<std::int64_t>& widths,
    const std::vector<std::vector<double>>& values);

// One quantity of one kind of layer.
struct Coordinate {
  std::string layer;    // "q", "ffn_in", "head", "q.router"
  std::string measure;  // "size", "change", or "effect of core_a"
  // [width][seed][step]: the root mean square over tokens, features and the
  // layers of this kind. Step 0 is before training; changes begin at step 1.
  std::vector<std::vector<std::vector<double>>> rms;
};

// A coordinate, judged by the last half of the steps.
struct JudgedCoordinate {
  Coordinate coordinate;
  std::optional<Exponent> exponent;
  Trend trend = Trend::kUndecided;
};

struct CheckedStructure {
  std::string structure;
  std::vector<JudgedCoordinate> coordinates;
  // Grows where one grows, else shrinks where one shrinks, else undecided where
  // one is.
  Trend verdict = Trend::kUndecided;
  // Of `coordinates` the one that decided it; null where all are flat.
  std::optional<std::size_t> because;
};

// Coordinates that are zero throughout, as of a layer that never learns, are
// shrinking ones.
CheckedStructure judge(
    const std::string& structure,
    const std::vector<std::int64_t>& widths,
    std::vector<Coordinate> coordinates);

struct CheckedModel {
  std::vector<std::int64_t> widths;
  std::vector<CheckedStructure> structures;
};

base::Json to_json(const CheckedModel& checked);

// For people: a line for each coordinate, and the verdicts.
std::string coordinate_table(const CheckedModel& checked);

}  // namespace einforge::train
