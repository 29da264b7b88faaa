#include "einforge/models/plan.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "einforge/base/error.h"

namespace einforge::models {
namespace {

// An error that names the key whose structure does not fit.
[[noreturn]] void refuse(const std::string& key, const std::string& why) {
  throw base::InvalidInput(fmt::format("model.structure.{}: {}", key, why));
}

// A structure as the config names it.
struct Choice {
  std::string key;  // of the config; "all" where the kind has none of its own
  structure::Spec spec;
};

bool is_ffn_moe(const Choice& choice) {
  return choice.spec.family == kFfnMoe;
}

Choice choose(
    const StructureConfig& config,
    const std::string& kind,
    const std::string& own) {
  Choice choice{own.empty() ? "all" : kind, {}};
  try {
    choice.spec = structure::parse(own.empty() ? config.all : own);
  } catch (const base::InvalidInput& error) {
    refuse(choice.key, error.what());
  }
  return choice;
}

structure::Structure realise(
    const Choice& choice, std::int64_t d_in, std::int64_t d_out) {
  try {
    return structure::realise(choice.spec, d_in, d_out);
  } catch (const base::InvalidInput& error) {
    refuse(choice.key, error.what());
  }
}

// Of a layer outside of the FFN: as the mixture of whole networks replaces the
// FFN alone, all the others stay dense.
Choice outside_ffn(
    const StructureConfig& config,
    const std::string& kind,
    const std::string& own) {
  Choice choice = choose(config, kind, own);
  if (is_ffn_moe(choice)) {
    if (!own.empty()) {
      refuse(
          kind,
          fmt::format(
              "expected a structure of one layer; got {}, which replaces the "
              "FFN",
              choice.spec.text));
    }
    choice.spec = structure::parse("dense");
  }
  return choice;
}

// Of both matrices of the FFN.
std::pair<Choice, Choice> inside_ffn(const StructureConfig& config) {
  const Choice in = choose(config, "ffn_in", config.ffn_in);
  Choice out = choose(config, "ffn_out", config.ffn_out);
  if (is_ffn_moe(in) && config.ffn_out.empty()) {
    out = in;
  }
  if ((is_ffn_moe(in) || is_ffn_moe(out)) && in.spec != out.spec) {
    refuse(
        "ffn_out",
        fmt::format(
            "expected what ffn_in has, as ffn_moe replaces both; got {} after "
            "{}",
            out.spec.text,
            in.spec.text));
  }
  return {in, out};
}

Choice head(const StructureConfig& config) {
  Choice choice = choose(config, "head", config.head);
  if (choice.spec.mixture) {
    refuse(
        "head",
        fmt::format(
            "expected a structure without experts; got {}", choice.spec.text));
  }
  return choice;
}

// q, k and v by one router, that of q.
void share_router(ModelPlan& plan) {
  const auto mixture = [&](std::size_t i) {
    return plan.linears[i].structure.spec.mixture;
  };
  base::check(
      mixture(0) == mixture(1) && mixture(0) == mixture(2),
      "model.moe.shared_qkv_router: expected q, k and v with the same E and k; "
      "got {}, {} and {}",
      plan.linears[0].structure.spec.text,
      plan.linears[1].structure.spec.text,
      plan.linears[2].structure.spec.text);
  plan.linears[1].router = false;
  plan.linears[2].router = false;
}

ModelPlan plan_gpt(
    const ModelConfig& config, std::int64_t vocabulary, std::int64_t base) {
  const std::int64_t width = config.width;
  const std::int64_t ffn = config.ffn_multiple * width;
  const StructureConfig& structure = config.structure;
  const auto block = [&](const std::string& kind,
                         const Choice& choice,
                         std::int64_t d_in,
                         std::int64_t d_out) {
    return LinearPlan{
        .kind = kind,
        .structure = realise(choice, d_in, d_out),
        .count = config.layers,
        .zero = kind == "attention_out" || kind == "ffn_out",
        // The LayerNorm on queries and keys would undo a gain.
        .gain = kind != "q" && kind != "k",
        // muP scales with a layer's own d_in in the base model.
        .base_width = d_in / width * base,
        .shared_expert = config.moe.shared_expert};
  };
  const auto square = [&](const std::string& kind, const std::string& own) {
    return block(kind, outside_ffn(structure, kind, own), width, width);
  };
  const auto [in, out] = inside_ffn(structure);
  ModelPlan plan;
  plan.linears = {
      square("q", structure.q),
      square("k", structure.k),
      square("v", structure.v),
      square("attention_out", structure.attention_out),
      block("ffn_in", in, width, ffn),
      block("ffn_out", out, ffn, width),
      {.kind = "head",
       .structure = realise(head(structure), width, vocabulary),
       .bias = false,
       .zero = true,
       .base_width = base}};
  if (config.moe.shared_qkv_router) {
    share_router(plan);
  }
  if (plan.ffn_moe()) {
    plan.linears[4].bias = false;
    plan.linears[5].router = false;
  }
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
  const Choice hidden = choose(structure, "all", "");
  if (is_ffn_moe(hidden)) {
    refuse(
        "all",
        fmt::format(
            "expected a structure of one layer; got {}, and an mlp has no FFN",
            hidden.spec.text));
  }
  ModelPlan plan;
  plan.linears = {
      // Its d_in does not grow with the width, so its rate does not shrink.
      {.kind = "input",
       .structure =
           structure::realise(structure::parse("dense"), inputs, config.width),
       .base_width = inputs},
      {.kind = "hidden",
       .structure = realise(hidden, config.width, config.width),
       .count = config.layers,
       .base_width = base,
       .shared_expert = config.moe.shared_expert},
      {.kind = "head",
       .structure = realise(head(structure), config.width, outputs),
       .zero = true,
       .base_width = base}};
  return plan;
}

// Of one layer, counted by `numbers` in its structure: what its flags say of
// its router and shared expert, `gains` being a layer's.
template <typename Count>
std::int64_t count_layer(
    const LinearPlan& plan, std::int64_t gains, Count&& numbers) {
  const structure::Structure& whole = plan.structure;
  std::int64_t sum = numbers(whole) + gains;
  if (whole.spec.mixture) {
    sum -= plan.router ? 0 : structure::router_parameters(whole);
    sum += plan.shared_expert ? numbers(structure::expert(whole)) + gains : 0;
  }
  return sum;
}

}  // namespace

std::int64_t LinearPlan::parameters() const {
  const std::int64_t gains = gain && !structure.dense ? 2 : 0;
  const auto numbers = [](const structure::Structure& layer) {
    return structure::parameters(layer);
  };
  return count *
         (count_layer(*this, gains, numbers) + (bias ? structure.d_out : 0));
}

std::int64_t LinearPlan::macs() const {
  const auto work = [](const structure::Structure& layer) {
    return structure::macs(layer);
  };
  return count * count_layer(*this, /*gains=*/0, work);
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

bool ModelPlan::ffn_moe() const {
  return std::any_of(linears.begin(), linears.end(), [](const auto& linear) {
    return linear.structure.spec.family == kFfnMoe;
  });
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
