#include "einforge/search/decode.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "einforge/bench/layers.h"
#include "einforge/train/device.h"

namespace einforge::search {
namespace {

bench::LayerCase one_token(const structure::Structure& layer) {
  bench::LayerCase result;
  result.layer = layer;
  result.tokens = 1;
  result.passes = {bench::Pass::kForward};
  result.implementations = {
      layer.spec.mixture ? "einforge" : (layer.dense ? "dense" : "inference")};
  return result;
}

}  // namespace

std::map<std::string, double> measure_decode(
    const std::vector<DecodeLayer>& layers,
    const train::TrainConfig& config,
    int threads,
    const std::function<void(int, int)>& on_layer) {
  constexpr std::int64_t kRepeats = 51;
  torch::set_num_threads(threads);
  const torch::Device device = train::resolve_device(config.device);
  // Its ceilings are for shares of a limit, which nobody reads here.
  bench::Machine machine{
      .device = device,
      .dtype = train::resolve_dtype(config.dtype, device),
      .repeats = kRepeats,
      .timer = bench::Timer(device),
      .ceilings = {1, 1}};
  std::map<std::string, double> result;
  int done = 0;
  for (const DecodeLayer& part : layers) {
    const base::Json rows = bench::measure_layers(
        {one_token(part.layer)}, machine, [](const std::string&) {});
    for (const base::Json& row : rows) {
      if (row.contains("median_ms")) {
        result[part.key] = row["median_ms"].get<double>();
      }
    }
    on_layer(++done, static_cast<int>(layers.size()));
  }
  return result;
}

}  // namespace einforge::search
