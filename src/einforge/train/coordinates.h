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

// What is flat changes by less than a factor of two while the width grows 16
// times: an exponent within 0.25 of zero. A quantity is flat if the whole 90%
// interval lies within (two one-sided tests at 5%), and grows or shrinks if the
// whole 95% interval lies beyond.
inline constexpr double kFlatWithin = 0.25;
// For one kind of layer by itself, of which there are dozens of quantities, and
// whose blocks change their shape with the width: a half, which is the least
// that a wrong power of the width in a rate or a deviation makes.
inline constexpr double kAloneWithin = 0.5;

// rms = c width^exponent, a least squares line through the logarithms.
struct Exponent {
  double value = 0;
  // 95%, Student's t of the line's residuals; infinite for two points.
  double low = 0;
  double high = 0;
  // 90%
  double low90 = 0;
  double high90 = 0;
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
  // layers of this kind, after the steps that are measured.
  std::vector<std::vector<std::vector<double>>> rms;
};

// A coordinate, judged by all its steps together; beyond kAloneWithin it grows
// or shrinks.
struct JudgedCoordinate {
  Coordinate coordinate;
  std::optional<Exponent> exponent;
  Trend trend = Trend::kUndecided;
};

// One measure of all layers, of the head, or of the routers together: the
// geometric mean over their kinds, of those that are positive throughout.
// Layers have the noise of a run in common, but not what one of them has of its
// shape at one width.
struct PooledCoordinate {
  std::string layers;  // "layers", "head" or "routers"
  std::string measure;
  std::vector<double> rms;  // by width, the geometric mean over seeds
  Exponent exponent;
  Trend trend = Trend::kUndecided;
};

struct CheckedStructure {
  std::string structure;
  std::vector<PooledCoordinate> pooled;
  std::vector<JudgedCoordinate> coordinates;
  // Grows where one pooled or one by itself grows, else shrinks where one does,
  // else undecided where a pooled size or effect is.
  Trend verdict = Trend::kUndecided;
  // What decided it, as "layers change"; empty where all are flat.
  std::string because;
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
