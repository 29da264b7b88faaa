#include "einforge/interop/convert.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <torch/types.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/safetensors.h"
#include "einforge/bench/timer.h"
#include "einforge/nn/projection.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/rms_cap.h"
#include "einforge/train/device.h"
#include "einforge/train/tensor_file.h"

namespace einforge::interop {
namespace {

namespace fs = std::filesystem;
using base::Json;
using base::TensorView;

constexpr std::string_view kWeight = ".weight";
constexpr const char* kMetadata = "einforge";

// Of a layer's time: passes that warm up, and those whose median counts.
constexpr std::int64_t kWarmUp = 5;
constexpr std::int64_t kRuns = 15;

bool matches(
    const std::string& name, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

// The layer that a tensor is the matrix of; none if it is no such tensor.
std::optional<std::string> layer_of(
    const TensorView& tensor, const ConvertOptions& options) {
  if (!tensor.name.ends_with(kWeight) || tensor.shape.size() != 2 ||
      !train::is_floating(tensor)) {
    return std::nullopt;
  }
  const std::string name =
      tensor.name.substr(0, tensor.name.size() - kWeight.size());
  if (!matches(name, options.layers) || matches(name, options.except)) {
    return std::nullopt;
  }
  return name;
}

class Converter {
 public:
  Converter(const ConvertOptions& options, std::set<std::string> biased)
      : options_(options),
        biased_(std::move(biased)),
        device_(train::resolve_device(options.device)),
        timer_(device_) {}

  // The layer, and its new tensors by name, which are none if it stays.
  std::pair<ConvertedLayer, train::NamedTensors> run(
      const std::string& name, const TensorView& view) {
    torch::Tensor weight = train::tensor_of(view).to(device_);
    if (options_.transposed) {
      weight = weight.t();
    }
    ConvertedLayer layer;
    layer.name = name;
    layer.d_in = weight.size(1);
    layer.d_out = weight.size(0);
    layer.structure = options_.structure;
    const std::int64_t bias = biased_.contains(name) ? layer.d_out : 0;
    layer.parameters.fill(layer.d_in * layer.d_out + bias);
    layer.flops.fill(2 * layer.d_in * layer.d_out);
    structure::Structure found;
    try {
      found = structure::realise(
          structure::parse(options_.structure), layer.d_in, layer.d_out);
    } catch (const base::InvalidInput& error) {
      layer.skipped = error.what();
      return {layer, {}};
    }
    if (!weight.isfinite().all().item<bool>()) {
      layer.skipped = "some of its values are not finite";
      return {layer, {}};
    }
    const nn::ProjectedLinear linear = nn::project_linear(weight, found);
    layer.relative_error = linear.relative_error;
    train::NamedTensors tensors;
    for (const auto& [part, tensor] :
         {std::pair{".core_a", linear.core_a},
          std::pair{".core_b", linear.core_b},
          std::pair{".gain_a", linear.gain_a},
          std::pair{".gain_b", linear.gain_b}}) {
      tensors.emplace_back(name + part, tensor.contiguous());
    }
    if (options_.tokens > 0) {
      layer.ms = time(weight, found, tensors);
    }
    if (options_.skip_if_slower && layer.ms &&
        (*layer.ms)[1] > (*layer.ms)[0]) {
      layer.skipped = "slower";
      return {layer, {}};
    }
    layer.sizes = found.sizes;
    layer.structure = found.spec.text;
    layer.parameters[1] = bias + structure::parameters(found) + 2;
    layer.flops[1] = 2 * structure::macs(found);
    for (auto& [part, tensor] : tensors) {
      tensor = tensor.cpu();
    }
    return {layer, tensors};
  }

 private:
  double median(const std::function<void()>& work) {
    timer_.milliseconds(work, kWarmUp);
    return bench::summarise(timer_.milliseconds(work, kRuns)).median;
  }

  std::array<double, 2> time(
      const torch::Tensor& weight,
      const structure::Structure& found,
      const train::NamedTensors& tensors) {
    const torch::NoGradGuard no_grad;
    const auto cores = structure::parametrisation(structure::padded(found));
    const structure::Sizes& sizes = found.sizes;
    const torch::Tensor x =
        torch::randn({options_.tokens, found.d_in}, weight.options());
    const torch::Tensor dense = weight.contiguous();
    const torch::Tensor a = ops::core_a_layout(tensors[0].second, sizes);
    const torch::Tensor b = ops::core_b_layout(tensors[1].second, sizes);
    const bool padded = structure::padded(found) != found;
    const auto structured = [&] {
      const torch::Tensor input =
          padded ? torch::constant_pad_nd(x, {0, sizes.d_in() - found.d_in})
                 : x;
      ops::einsum_linear(
          input,
          ops::rms_cap(a, tensors[2].second, cores[0].init_std),
          ops::rms_cap(b, tensors[3].second, cores[1].init_std));
    };
    return {median([&] { torch::linear(x, dense); }), median(structured)};
  }

  const ConvertOptions& options_;
  std::set<std::string> biased_;
  torch::Device device_;
  bench::Timer timer_;
};

// The structures that the file's layers have already.
Json recorded(const base::Safetensors& file) {
  const auto found = file.metadata.find(kMetadata);
  if (found != file.metadata.end()) {
    if (auto json = base::try_parse_json(found->second);
        json && json->is_object()) {
      return *json;
    }
  }
  return Json::object();
}

void check_options(const ConvertOptions& options) {
  const structure::Spec spec = structure::parse(options.structure);
  base::check(
      !spec.mixture && !spec.dense,
      "--structure: expected one of two cores; got {}",
      spec.text);
  base::check(
      !options.skip_if_slower || options.tokens > 0,
      "--skip-if-slower: expected --tokens of at least 1; got 0");
}

}  // namespace

Json to_json(const ConvertedLayer& layer) {
  Json json = {
      {"name", layer.name},
      {"d_in", layer.d_in},
      {"d_out", layer.d_out},
      {"structure", layer.structure},
      {"sizes", nullptr},
      {"skipped", layer.skipped},
      {"relative_error", nullptr},
      {"parameters", layer.parameters},
      {"flops", layer.flops},
      {"ms", nullptr}};
  if (layer.sizes) {
    json["sizes"] = layer.sizes->values();
  }
  if (layer.relative_error) {
    json["relative_error"] = *layer.relative_error;
  }
  if (layer.ms) {
    json["ms"] = *layer.ms;
  }
  return json;
}

std::vector<ConvertedLayer> convert(
    const fs::path& in,
    const fs::path& out,
    const ConvertOptions& options,
    const std::function<void(const ConvertedLayer&)>& on_layer) {
  check_options(options);
  const base::MappedFile mapped(in);
  base::Safetensors file;
  try {
    file = base::parse_safetensors(mapped.bytes());
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(
        fmt::format("'{}': {}", in.string(), error.what()));
  }
  std::set<std::string> names;
  std::set<std::string> biased;
  for (const TensorView& tensor : file.tensors) {
    names.insert(tensor.name);
    if (tensor.name.ends_with(".bias")) {
      biased.insert(tensor.name.substr(0, tensor.name.size() - 5));
    }
  }
  Converter converter(options, std::move(biased));
  Json structures = recorded(file);
  base::Safetensors result;
  std::vector<ConvertedLayer> report;
  train::NamedTensors alive;
  for (const TensorView& tensor : file.tensors) {
    const std::optional<std::string> name = layer_of(tensor, options);
    if (!name) {
      result.tensors.push_back(tensor);
      continue;
    }
    auto [layer, tensors] = converter.run(*name, tensor);
    if (tensors.empty()) {
      result.tensors.push_back(tensor);
    } else {
      structures[*name] = layer.structure;
    }
    for (const auto& [part, value] : tensors) {
      base::check(
          !names.contains(part),
          "'{}': expected no tensor '{}' beside '{}'; got one",
          in.string(),
          part,
          tensor.name);
      alive.emplace_back(part, value);
      result.tensors.push_back(train::view_of(part, value));
    }
    if (on_layer) {
      on_layer(layer);
    }
    report.push_back(std::move(layer));
  }
  base::check(
      !report.empty(),
      "'{}': expected layers that match --layers (and not --except); got none "
      "among {} tensors",
      in.string(),
      file.tensors.size());
  result.metadata = file.metadata;
  result.metadata.try_emplace("format", "pt");
  result.metadata[kMetadata] = structures.dump();
  base::write_safetensors(out, result);
  return report;
}

}  // namespace einforge::interop
