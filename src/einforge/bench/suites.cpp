#include "einforge/bench/suites.h"

#include <fmt/format.h>

#include <utility>

#include "einforge/base/error.h"

namespace einforge::bench {
namespace {

using structure::Spec;

struct Layer {
  Spec spec;
  Width width;
};

// Every structure at every width.
std::vector<Layer> grid(
    const std::vector<Spec>& specs, const std::vector<Width>& widths) {
  std::vector<Layer> layers;
  for (const Width& width : widths) {
    for (const Spec& spec : specs) {
      layers.push_back({spec, width});
    }
  }
  return layers;
}

// The layers that docs/ and results/ compare; a rank of 4 is 1024^(1/5) and
// 4096^(1/6).
std::vector<Layer> reference_layers() {
  const Spec monarch = structure::parse("monarch");
  return {
      {monarch, {4096, 4096}},
      {monarch, {2048, 2048}},
      {monarch, {1024, 1024}},
      {monarch, {1024, 4096}},
      {monarch, {4096, 1024}},
      {structure::parse("btt:0.1667"), {4096, 4096}},
      {structure::parse("btt:0.2"), {1024, 1024}}};
}

std::vector<Spec> paper_specs() {
  std::vector<Spec> specs;
  for (const structure::Theta& theta : structure::paper_sweep()) {
    specs.push_back(structure::to_spec(theta));
  }
  return specs;
}

// The shapes of the layers of transformers, and others beside them: multiples
// of 16 that are no powers of two, ratios of 1:3 and 3:8.
std::vector<Width> coverage_widths() {
  return {
      {512, 512},    {512, 2048},   {2048, 512},   {768, 768},   {768, 3072},
      {3072, 768},   {1024, 1024},  {1024, 4096},  {4096, 1024}, {1280, 1280},
      {1280, 5120},  {5120, 1280},  {1536, 6144},  {6144, 1536}, {1600, 1600},
      {1600, 6400},  {2048, 2048},  {2048, 8192},  {8192, 2048}, {2560, 2560},
      {2560, 10240}, {3072, 3072},  {3072, 8192},  {4096, 4096}, {4096, 11008},
      {4096, 14336}, {14336, 4096}, {4096, 16384}, {5120, 5120}, {5120, 13824},
      {8192, 8192},  {880, 880},    {1104, 1104},  {1008, 3024}, {1152, 3072},
      {1360, 1360},  {1936, 1936},  {2320, 2320},  {2736, 2736}, {3504, 9344},
      {4400, 4400}};
}

// All of them by the structures that the product offers, and mixtures of more
// or fewer experts at two widths.
std::vector<Layer> coverage_layers() {
  std::vector<Spec> specs;
  for (const char* text :
       {"monarch",
        "btt:0.25",
        "kronecker",
        "tensor_train:0.25",
        "low_rank:0.5",
        "btt_moe:E=16,k=2",
        "btt_moe:E=8,k=2"}) {
    specs.push_back(structure::parse(text));
  }
  std::vector<Layer> layers = grid(specs, coverage_widths());
  for (const std::int64_t width : {1024, 2048}) {
    for (const int experts : {4, 8, 16, 32, 64, 128}) {
      for (const int active : {1, 2, 4, 8}) {
        if (active <= experts) {
          layers.push_back(
              {structure::parse(
                   fmt::format("btt_moe:E={},k={}", experts, active)),
               {width, width}});
        }
      }
    }
  }
  return layers;
}

// The defaults of a suite.
struct Defaults {
  std::vector<Layer> layers;
  std::vector<Spec> specs;    // where only widths are given
  std::vector<Width> widths;  // where only structures are given
  std::vector<std::int64_t> tokens;
  std::vector<Pass> passes{Pass::kForward, Pass::kForwardBackward};
  bool share_dense = false;  // of LayerCase
};

Defaults defaults_of(const std::string& suite, bool cuda) {
  const std::vector<Spec> monarch{structure::parse("monarch")};
  const std::int64_t many = cuda ? 32768 : 2048;
  const std::vector<Width> widths{{1024, 1024}, {2048, 2048}, {4096, 4096}};
  if (suite == "layers" && cuda) {
    return {reference_layers(), monarch, widths, {many}};
  }
  if (suite == "layers") {
    const std::vector<Width> small{widths[0], widths[1]};
    return {grid(monarch, small), monarch, small, {many}};
  }
  if (suite == "paper") {
    return {grid(paper_specs(), widths), paper_specs(), widths, {many}};
  }
  const std::vector<Spec> moe{structure::parse("btt_moe:E=16,k=2")};
  if (suite == "widths") {
    const std::vector<Spec> specs{monarch[0], moe[0]};
    const std::vector<Width> others{
        {384, 384},
        {768, 768},
        {768, 3072},
        {3072, 768},
        {1280, 1280},
        {1536, 1536},
        {1600, 1600},
        {3072, 3072}};
    return {grid(specs, others), specs, others, {many}};
  }
  if (suite == "coverage") {
    return {
        .layers = coverage_layers(),
        .specs = {monarch[0], moe[0]},
        .widths = coverage_widths(),
        .tokens = {cuda ? 16384 : many},
        .share_dense = true};
  }
  if (suite == "moe") {
    std::vector<Layer> layers = grid(moe, widths);
    layers.push_back({structure::parse("ffn_moe:E=8,k=2"), {1024, 4096}});
    return {layers, moe, widths, {many}};
  }
  base::check(
      suite == "decode",
      "--suite: expected layers, paper, decode, moe, widths or coverage; got "
      "'{}'",
      suite);
  return {
      grid(monarch, widths),
      monarch,
      widths,
      {1, 2, 4, 8, 16, 32, 64},
      {Pass::kForward}};
}

bool is_btt(const structure::Sizes& sizes) {
  return (sizes.beta == 1 && sizes.delta == 1) ||
         (sizes.alpha == 1 && sizes.epsilon == 1);
}

std::vector<std::string> implementations_of(
    const Suite& suite, const structure::Structure& layer) {
  if (!suite.implementations.empty()) {
    return suite.implementations;
  }
  if (suite.name == "coverage") {
    return {"dense", "einforge"};
  }
  if (suite.name != "paper") {
    return {};
  }
  std::vector<std::string> names{"dense", "einforge", "bmm"};
  const bool low_rank = layer.sizes.gamma == 1 && layer.sizes.phi == 1;
  if (low_rank || !is_btt(layer.sizes)) {
    names.emplace_back("einsum");
  }
  return names;
}

std::vector<std::string> routings_of(const Suite& suite, const Spec& spec) {
  if (suite.name == "moe" && spec.mixture && spec.family != "ffn_moe") {
    return {"uniform", "zipf", "one_expert"};
  }
  return {"uniform"};
}

}  // namespace

std::vector<LayerCase> layer_cases(const Suite& suite, bool cuda) {
  Defaults defaults = defaults_of(suite.name, cuda);
  std::vector<Layer> layers = std::move(defaults.layers);
  if (!suite.structures.empty() || !suite.widths.empty()) {
    std::vector<Spec> specs;
    for (const std::string& text : suite.structures) {
      specs.push_back(structure::parse(text));
    }
    layers = grid(
        specs.empty() ? defaults.specs : specs,
        suite.widths.empty() ? defaults.widths : suite.widths);
  }
  std::vector<LayerCase> cases;
  for (const Layer& layer : layers) {
    const structure::Structure realised = structure::padded(
        structure::realise(layer.spec, layer.width.d_in, layer.width.d_out));
    for (const std::int64_t tokens :
         suite.tokens.empty() ? defaults.tokens : suite.tokens) {
      for (const std::string& routing : routings_of(suite, layer.spec)) {
        cases.push_back(
            {realised,
             tokens,
             defaults.passes,
             implementations_of(suite, realised),
             routing,
             defaults.share_dense});
      }
    }
  }
  return cases;
}

}  // namespace einforge::bench
