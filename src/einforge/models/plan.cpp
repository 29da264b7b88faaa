#include "einforge/models/plan.h"

#include <algorithm>
#include <stdexcept>

#include "einforge/base/error.h"

namespace einforge::models {
namespace {

// An error that names the key whose structure does not fit.
structure::Structure realise(
    const std::string& key,
    const std::string& text,
    std::int64_t d_in,
    std::int64_t d_out) {
  try {
    return structure::realise(structure::parse(text), d_in, d_out);
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(
        fmt::format("model.structure.{}: {}", key, error.what()));
  }
}

std::string or_all(const StructureConfig& config, const std::string& own) {
  return own.empty() ? config.all : own;
}

ModelPlan plan_gpt(
    const ModelConfig& config, std::int64_t vocabulary, std::int64_t base) {
  const std::int64_t width = config.width;
  const std::int64_t ffn = config.ffn_multiple * width;
  const StructureConfig& structure = config.structure;
  const auto block = [&](const std::string& kind,
                         const std::string& own,
                         std::int64_t d_in,
                         std::int64_t d_out) {
    return LinearPlan{
        .kind = kind,
        .structure = realise(
            own.empty() ? "all" : kind, or_all(structure, own), d_in, d_out),
        .count = config.layers,
        .zero = kind == "attention_out" || kind == "ffn_out",
        // The LayerNorm on queries and keys would undo a gain.
        .gamma = kind != "q" && kind != "k",
        // muP scales with a layer's own d_in in the base model.
        .base_width = d_in / width * base};
  };
  ModelPlan plan;
  plan.linears = {
      block("q", structure.q, width, width),
      block("k", structure.k, width, width),
      block("v", structure.v, width, width),
      block("attention_out", structure.attention_out, width, width),
      block("ffn_in", structure.ffn_in, width, ffn),
      block("ffn_out", structure.ffn_out, ffn, width),
      {.kind = "head",
       .structure = realise("head", structure.head, width, vocabulary),
       .bias = false,
       .zero = true,
       .base_width = base}};
  plan.embedding_parameters = (vocabulary + config.context) * width;
  // Two LayerNorms with bias a block, one at the end; gains of q and k.
  const std::int64_t head_width = std::min(config.head_width, width);
  plan.norm_parameters =
      (2 * config.layers + 1) * 2 * width + config.layers * 2 * head_width;
  plan.attention_macs = config.layers * (config.context + 1) * width;
  return plan;
}

ModelPlan plan_mlp(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    std::int64_t base) {
  const StructureConfig& structure = config.structure;
  ModelPlan plan;
  plan.linears = {
      // Its d_in does not grow with the width, so its rate does not shrink.
      {.kind = "input",
       .structure = realise("all", "dense", inputs, config.width),
       .base_width = inputs},
      {.kind = "hidden",
       .structure = realise("all", structure.all, config.width, config.width),
       .count = config.layers,
       .base_width = base},
      {.kind = "head",
       .structure = realise("head", structure.head, config.width, outputs),
       .zero = true,
       .base_width = base}};
  return plan;
}

}  // namespace

std::int64_t LinearPlan::parameters() const {
  const std::int64_t gammas = gamma && !structure.dense ? 2 : 0;
  return count * (structure::parameters(structure) + gammas +
                  (bias ? structure.d_out : 0));
}

std::int64_t LinearPlan::macs() const {
  return count * structure::macs(structure);
}

std::int64_t ModelPlan::parameters() const {
  std::int64_t sum = embedding_parameters + norm_parameters;
  for (const LinearPlan& linear : linears) {
    sum += linear.parameters();
  }
  return sum;
}

std::int64_t ModelPlan::macs() const {
  std::int64_t sum = attention_macs;
  for (const LinearPlan& linear : linears) {
    sum += linear.macs();
  }
  return sum;
}

const LinearPlan& ModelPlan::linear(const std::string& kind) const {
  for (const LinearPlan& linear : linears) {
    if (linear.kind == kind) {
      return linear;
    }
  }
  throw std::out_of_range("models: no linear layer of kind '" + kind + "'");
}

ModelPlan plan(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    std::int64_t base_width) {
  config.validate();
  return config.kind == "gpt" ? plan_gpt(config, outputs, base_width)
                              : plan_mlp(config, inputs, outputs, base_width);
}

}  // namespace einforge::models
