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

std::int64_t norm_parameters(const ModelConfig& config, std::int64_t width) {
  return config.bias ? 2 * width : width;
}

// Where gates leave a router without a gradient, an error that names the key.
void check_gates(const ModelConfig& config, const ModelPlan& plan) {
  for (const LinearPlan& linear : plan.linears) {
    if (const auto& mixture = linear.structure.spec.mixture) {
      try {
        config.moe.router.check_gates(mixture->experts, mixture->active);
      } catch (const base::InvalidInput& error) {
        throw base::InvalidInput(fmt::format(
            "model.moe.{}, for {}", error.what(), linear.structure.spec.text));
      }
    }
  }
}

// The FFN of a block: its two matrices, or their mixture.
std::vector<LinearPlan> plan_ffn(
    const ModelConfig& config, const BaseModel& base) {
  const std::int64_t width = config.width;
  const std::int64_t ffn = config.ffn_multiple * width;
  const auto [in, out] = inside_ffn(config.structure);
  const bool mixture = is_ffn_moe(in);
  return {
      {.kind = "ffn_in",
       .structure = realise(in, width, ffn),
       .count = config.layers,
       .bias = config.bias && !mixture,
       .cap = config.rms_cap,
       .base_width = base.width,
       .shared_expert = config.moe.shared_expert},
      {.kind = "ffn_out",
       .structure = realise(out, ffn, width),
       .count = config.layers,
       .bias = config.bias,
       .zero = true,
       .cap = config.rms_cap,
       .base_width = base.ffn_multiple * base.width,
       .router = !mixture,
       .shared_expert = config.moe.shared_expert}};
}

ModelPlan plan_gpt(
    const ModelConfig& config, std::int64_t vocabulary, const BaseModel& base) {
  const std::int64_t width = config.width;
  const StructureConfig& structure = config.structure;
  const auto square = [&](const std::string& kind, const std::string& own) {
    return LinearPlan{
        .kind = kind,
        .structure = realise(outside_ffn(structure, kind, own), width, width),
        .count = config.layers,
        .bias = config.bias,
        .zero = kind == "attention_out",
        .cap = config.rms_cap,
        // The LayerNorm on queries and keys would undo a gain.
        .gain = kind != "q" && kind != "k",
        .base_width = base.width,
        .shared_expert = config.moe.shared_expert};
  };
  ModelPlan plan;
  plan.linears = {
      square("q", structure.q),
      square("k", structure.k),
      square("v", structure.v),
      square("attention_out", structure.attention_out)};
  if (config.moe.shared_qkv_router) {
    share_router(plan);
  }
  for (LinearPlan& linear : plan_ffn(config, base)) {
    plan.linears.push_back(std::move(linear));
  }
  plan.linears.push_back(
      {.kind = "head",
       .structure = realise(head(structure), width, vocabulary),
       .bias = false,
       .zero = true,
       .cap = config.rms_cap,
       .base_width = base.width});
  plan.embedding_parameters = (vocabulary + config.context) * width;
  // Two LayerNorms per block and one at the end; gains of q and k.
  const std::int64_t head_width = std::min(config.head_width, width);
  plan.norm_parameters =
      (2 * config.layers + 1) * norm_parameters(config, width) +
      config.layers * 2 * head_width;
  plan.attention_macs = config.layers * (config.context + 1) * width;
  plan.square_attention_macs = config.layers * 2 * config.context * width;
  return plan;
}

// The dense layer from the inputs: their number does not grow with the width,
// so its rate does not shrink.
LinearPlan plan_input(const ModelConfig& config, std::int64_t inputs) {
  return {
      .kind = "input",
      .structure =
          structure::realise(structure::parse("dense"), inputs, config.width),
      .bias = config.bias,
      .base_width = inputs};
}

LinearPlan plan_output(
    const ModelConfig& config, std::int64_t outputs, const BaseModel& base) {
  return {
      .kind = "head",
      .structure = realise(head(config.structure), config.width, outputs),
      .bias = config.bias,
      .zero = true,
      .cap = config.rms_cap,
      .base_width = base.width};
}

ModelPlan plan_residual_mlp(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    const BaseModel& base) {
  ModelPlan plan;
  plan.linears = {plan_input(config, inputs)};
  for (LinearPlan& linear : plan_ffn(config, base)) {
    plan.linears.push_back(std::move(linear));
  }
  plan.linears.push_back(plan_output(config, outputs, base));
  plan.norm_parameters =
      (config.layers + 1) * norm_parameters(config, config.width);
  return plan;
}

ModelPlan plan_mlp(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    const BaseModel& base) {
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
      plan_input(config, inputs),
      {.kind = "hidden",
       .structure = realise(hidden, config.width, config.width),
       .count = config.layers,
       .bias = config.bias,
       .cap = config.rms_cap,
       .base_width = base.width,
       .shared_expert = config.moe.shared_expert},
      plan_output(config, outputs, base)};
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
  const std::int64_t gains = cap && gain && !structure.dense ? 2 : 0;
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
    const BaseModel& base) {
  config.validate();
  ModelPlan plan = config.kind == "gpt" ? plan_gpt(config, outputs, base)
                   : config.kind == "mlp"
                       ? plan_mlp(config, inputs, outputs, base)
                       : plan_residual_mlp(config, inputs, outputs, base);
  check_gates(config, plan);
  return plan;
}

}  // namespace einforge::models
