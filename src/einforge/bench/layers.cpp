#include "einforge/bench/layers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "einforge/base/error.h"
#include "einforge/bench/device.h"
#include "einforge/bench/mixtures.h"
#include "einforge/ops/btt_moe_table.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "einforge/ops/merged.h"

namespace einforge::bench {
namespace {

using base::Json;
using torch::Tensor;

// The kernels of the operator's table that take both passes.
std::vector<std::string> kernel_names(
    const structure::Sizes& sizes,
    std::int64_t tokens,
    const Machine& machine) {
  std::vector<std::string> names;
  const auto table =
      machine.device.is_cuda() ? ops::cuda_kernels() : ops::cpu_kernels();
  for (const auto& kernel : table) {
    ops::EinsumLinearProblem problem{
        .sizes = sizes,
        .tokens = tokens,
        .dtype = machine.dtype,
        .device = machine.device.type()};
    bool supported = kernel.supports(problem);
    problem.pass = ops::Pass::kBackward;
    supported = supported && kernel.supports(problem);
    if (supported) {
      names.emplace_back(kernel.name);
    }
  }
  return names;
}

// As nn::EinsumLinear does it when it may merge its cores.
Implementation inference(
    Implementation structured, const Tensor& a, const Tensor& b) {
  const Tensor merged = torch::einsum("agdfr,bgefr->defabg", {a, b})
                            .flatten(0, 2)
                            .flatten(1)
                            .detach();
  const structure::Sizes sizes = ops::core_sizes(a, b);
  structured.name = "inference";
  structured.kernel = "";
  structured.layer = [a, b, merged, sizes](const Tensor& x) {
    const bool merge = ops::merged_is_faster(
        {.sizes = sizes,
         .tokens = x.size(0),
         .dtype = x.scalar_type(),
         .device = x.device().type()});
    return merge ? torch::linear(x, merged) : ops::einsum_linear(x, a, b);
  };
  return structured;
}

// The layer of a structure by every implementation.
std::vector<Implementation> implementations(
    const LayerCase& which, const Machine& machine) {
  const structure::Structure& layer = which.layer;
  const auto weight = [&](c10::IntArrayRef sizes, std::int64_t fan_in) {
    return random(machine, sizes) / std::sqrt(static_cast<double>(fan_in));
  };
  std::vector<Implementation> result;
  const Tensor dense =
      weight({layer.d_out, layer.d_in}, layer.d_in).requires_grad_();
  const auto dense_size = static_cast<double>(layer.d_in * layer.d_out);
  result.push_back(
      {.name = "dense",
       .layer = [dense](const Tensor& x) { return torch::linear(x, dense); },
       .weights = {dense},
       .macs = dense_size,
       .parameters = dense_size});
  if (layer.dense) {
    return result;
  }
  const structure::Sizes& s = layer.sizes;
  const Tensor a =
      ops::core_a_layout(
          weight({s.alpha, s.gamma, s.delta, s.phi, s.rho}, s.alpha), s)
          .requires_grad_();
  const Tensor b = ops::core_b_layout(
                       weight(
                           {s.beta, s.gamma, s.epsilon, s.phi, s.rho},
                           s.beta * s.gamma * s.rho),
                       s)
                       .requires_grad_();
  Implementation structured{
      .name = "einforge",
      .layer = [a, b](const Tensor& x) { return ops::einsum_linear(x, a, b); },
      .weights = {a, b},
      .macs = static_cast<double>(structure::macs(layer)),
      .parameters = static_cast<double>(structure::parameters(layer))};
  result.push_back(structured);
  for (const std::string& name : kernel_names(s, which.tokens, machine)) {
    structured.name = name;
    structured.kernel = name;
    result.push_back(structured);
  }
  if (std::find(
          which.passes.begin(), which.passes.end(), Pass::kForwardBackward) ==
      which.passes.end()) {
    result.push_back(inference(structured, a, b));
  }
  structured.name = "einsum";
  structured.kernel = "";
  const bool ab = structure::cheaper_order(s) == structure::Order::kAB;
  structured.layer = [a, b, s, ab](const Tensor& x) {
    const Tensor x4 = x.view({-1, s.alpha, s.beta, s.gamma});
    // Pairwise from the left, so the cheaper order is ours to write.
    const Tensor y = ab ? torch::einsum("tabg,agdfr,bgefr->tdef", {x4, a, b})
                        : torch::einsum("tabg,bgefr,agdfr->tdef", {x4, b, a});
    return y.reshape({x.size(0), s.d_out()});
  };
  result.push_back(structured);
  return result;
}

// Asks every kernel whether it takes the layer, for which some are compiled.
void compile_kernels(const LayerCase& which, const Machine& machine) {
  if (which.layer.dense) {
    return;
  }
  ops::EinsumLinearProblem problem{
      .sizes = which.layer.sizes,
      .tokens = which.tokens,
      .dtype = machine.dtype,
      .device = machine.device.type()};
  for (const ops::Pass pass : {ops::Pass::kBackward, ops::Pass::kForward}) {
    problem.pass = pass;
    if (const auto& mixture = which.layer.spec.mixture) {
      for (const auto& kernel : ops::cuda_moe_kernels()) {
        kernel.supports({problem, mixture->experts, mixture->active});
      }
    } else {
      for (const auto& kernel : ops::cuda_kernels()) {
        kernel.supports(problem);
      }
    }
  }
}

// Those of all cases side by side: of one layer there are fewer than a machine
// has cores.
void compile_kernels(
    const std::vector<LayerCase>& cases, const Machine& machine) {
  std::atomic<std::size_t> next{0};
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
    threads.emplace_back([&] {
      for (std::size_t at = next++; at < cases.size(); at = next++) {
        try {
          compile_kernels(cases[at], machine);
        } catch (const std::exception&) {
          // Its row will say it.
        }
      }
    });
  }
}

Problem problem_of(const LayerCase& which, const Machine& machine) {
  const structure::Structure& layer = which.layer;
  Problem problem;
  problem.labels = {
      {"structure", layer.spec.text},
      {"sizes", layer.sizes.values()},
      {"d_in", layer.d_in},
      {"d_out", layer.d_out},
      {"rank", layer.dense ? layer.d_in : layer.sizes.rho},
      {"tokens", which.tokens},
      {"dtype", name_of(machine.dtype)}};
  problem.d_in = layer.d_in;
  problem.d_out = layer.d_out;
  problem.tokens = which.tokens;
  problem.passes = which.passes;
  return problem;
}

}  // namespace

void check_implementations(const std::vector<std::string>& names, bool cuda) {
  std::set<std::string> known{"dense", "einforge", "einsum", "inference"};
  const auto add = [&](const auto& table) {
    for (const auto& kernel : table) {
      known.emplace(kernel.name);
    }
  };
  add(cuda ? ops::cuda_kernels() : ops::cpu_kernels());
  add(cuda ? ops::cuda_moe_kernels() : ops::cpu_moe_kernels());
  for (const std::string& name : names) {
    base::check(
        known.contains(name),
        "--implementations: expected some of {}; got '{}'",
        fmt::join(known, ", "),
        name);
  }
}

Json measure_layers(
    const std::vector<LayerCase>& cases,
    Machine& machine,
    const std::function<void(const std::string&)>& progress,
    const std::function<void(const Json&)>& keep) {
  if (machine.device.is_cuda()) {
    progress("nothing yet: compiling kernels");
    compile_kernels(cases, machine);
  }
  Json rows = Json::array();
  // By width and tokens, dense's times.
  std::map<std::array<std::int64_t, 3>, std::map<Pass, double>> dense;
  for (const LayerCase& which : cases) {
    progress(fmt::format(
        "{} {} -> {}, {} tokens{}",
        which.layer.spec.text,
        which.layer.d_in,
        which.layer.d_out,
        which.tokens,
        which.layer.spec.mixture ? ", " + which.routing : ""));
    Problem problem = problem_of(which, machine);
    try {
      if (which.layer.spec.mixture) {
        add_mixture(which, machine, problem);
      } else {
        problem.implementations = implementations(which, machine);
      }
      const auto& wanted = which.implementations;
      std::erase_if(problem.implementations, [&](const auto& implementation) {
        return !wanted.empty() &&
               std::find(wanted.begin(), wanted.end(), implementation.name) ==
                   wanted.end();
      });
      auto& known = dense[{which.layer.d_in, which.layer.d_out, which.tokens}];
      // The dense counterpart of a feed-forward mixture is two layers.
      const bool shares =
          which.share_dense && which.layer.spec.family != "ffn_moe";
      if (shares && !known.empty()) {
        problem.dense_ms = known;
        std::erase_if(problem.implementations, [](const auto& implementation) {
          return implementation.name == "dense";
        });
      }
      const std::size_t before = rows.size();
      measure(problem, machine, rows);
      for (std::size_t i = before; i < rows.size(); ++i) {
        if (shares && rows[i]["implementation"] == "dense" &&
            rows[i].contains("median_ms")) {
          known
              [rows[i]["pass"] == "forward" ? Pass::kForward
                                            : Pass::kForwardBackward] =
                  rows[i]["median_ms"];
        }
      }
    } catch (const std::exception& error) {
      add_error(problem, base::message_of(error), rows);
    }
    free_memory(machine.device);
    if (keep) {
      keep(rows);
    }
  }
  return rows;
}

}  // namespace einforge::bench
