#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/structure/structure.h"

namespace einforge::interop {

struct ConvertOptions {
  std::string structure;
  // Layers whose dotted name, without ".weight", matches one of the patterns
  // (those of a shell; * matches dots too), and none of `except`.
  std::vector<std::string> layers = {"*"};
  std::vector<std::string> except;
  // Weights are (d_in, d_out), as those of transformers' Conv1D.
  bool transposed = false;
  // Rows of the input with which layers are timed; 0: they are not.
  std::int64_t tokens = 4096;
  // A layer that takes longer forward stays as it is.
  bool skip_if_slower = false;
  // Where matrices are decomposed and layers timed.
  std::string device = "cpu";
};

// What became of one layer; python/einforge/convert.py has the same.
struct ConvertedLayer {
  std::string name;
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
  std::string structure;
  std::optional<structure::Sizes> sizes;
  std::string skipped;  // why it stays dense; empty: converted
  std::optional<double> relative_error;
  std::array<std::int64_t, 2> parameters{};  // before, after
  std::array<std::int64_t, 2> flops{};       // of one vector, forward
  std::optional<std::array<double, 2>> ms;   // forward, of `tokens` vectors
};

base::Json to_json(const ConvertedLayer& layer);

// Gives the matrices of a safetensors file a structure, each the nearest in the
// Frobenius norm. NAME.weight becomes NAME.core_a, .core_b, .gain_a and .gain_b
// of the same dtype, as einforge.nn.Linear has them; all else is copied, and
// the metadata's "einforge" says which structure each layer has. The output
// appears by a rename.
//
// @param on_layer called after each layer that a pattern matches
// @throw base::InvalidInput for a file that is none, patterns that match
//   nothing, an unknown structure; base::IoError when the disk refuses
std::vector<ConvertedLayer> convert(
    const std::filesystem::path& in,
    const std::filesystem::path& out,
    const ConvertOptions& options,
    const std::function<void(const ConvertedLayer&)>& on_layer = {});

}  // namespace einforge::interop
