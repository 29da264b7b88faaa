#include "einforge/bench/layers.h"

#include <ATen/Parallel.h>
#ifdef EINFORGE_HAVE_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif
#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <optional>

#include "einforge/base/text.h"
#include "einforge/bench/timer.h"
#include "einforge/kernels/cpu/isa.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "einforge/structure/structure.h"

namespace einforge::bench {
namespace {

using base::Json;
using torch::Tensor;

// Inputs that rounds take in turn, so that none stays in a cache by luck.
constexpr std::size_t kInputs = 4;

enum class Pass { kForward, kForwardBackward };

struct Implementation {
  std::string name;
  // The output for an input, and the weights to differentiate.
  std::function<Tensor(const Tensor&)> layer;
  std::vector<Tensor> weights;
  // Forces this kernel; empty: the operator's choice.
  std::string kernel;
};

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      return base::trim(line.substr(line.find(':') + 1));
    }
  }
  return "unknown";
}

std::string gpu_name(torch::Device device) {
#ifdef EINFORGE_HAVE_CUDA
  return at::cuda::getDeviceProperties(device.index())->name;
#else
  return device.str();
#endif
}

Json device_json(const LayersOptions& options, const Ceilings& ceilings) {
  Json json = {
      {"type", options.device.is_cuda() ? "cuda" : "cpu"},
      {"name",
       options.device.is_cuda() ? gpu_name(options.device) : cpu_name()}};
  if (!options.device.is_cuda()) {
    json["threads"] = at::get_num_threads();
    json["instructions"] =
        std::string(kernels::cpu::isa_name(kernels::cpu::best_isa()));
  }
  json["torch"] = TORCH_VERSION;
  json["matmul_gflops"] = ceilings.flops * 1e-9;
  json["copy_gb_per_s"] = ceilings.bandwidth * 1e-9;
  return json;
}

// The layer of a structure by every implementation.
std::vector<Implementation> implementations(
    const LayersOptions& options, const structure::Structure& layer) {
  const auto like =
      torch::TensorOptions().device(options.device).dtype(options.dtype);
  const auto weight = [&](c10::IntArrayRef sizes, std::int64_t fan_in) {
    return torch::randn(sizes, like) / std::sqrt(static_cast<double>(fan_in));
  };
  std::vector<Implementation> result;
  const Tensor dense =
      weight({layer.d_out, layer.d_in}, layer.d_in).requires_grad_();
  result.push_back(
      {"dense",
       [dense](const Tensor& x) { return torch::linear(x, dense); },
       {dense},
       ""});
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
  const auto run = [a, b](const Tensor& x) {
    return ops::einsum_linear(x, a, b);
  };
  result.push_back({"einforge", run, {a, b}, ""});
  const auto table =
      options.device.is_cuda() ? ops::cuda_kernels() : ops::cpu_kernels();
  for (const auto& kernel : table) {
    ops::EinsumLinearProblem problem{
        .sizes = s,
        .tokens = options.tokens,
        .dtype = options.dtype,
        .device = options.device.type()};
    bool supported = kernel.supports(problem);
    problem.pass = ops::Pass::kBackward;
    supported = supported && kernel.supports(problem);
    if (supported) {
      result.push_back(
          {std::string(kernel.name), run, {a, b}, std::string(kernel.name)});
    }
  }
  const bool ab = structure::cheaper_order(s) == structure::Order::kAB;
  result.push_back(
      {"einsum",
       [a, b, s, ab](const Tensor& x) {
         const Tensor x4 = x.view({-1, s.alpha, s.beta, s.gamma});
         // Pairwise from the left, so the cheaper order is ours to write.
         const Tensor y =
             ab ? torch::einsum("tabg,agdfr,bgefr->tdef", {x4, a, b})
                : torch::einsum("tabg,bgefr,agdfr->tdef", {x4, b, a});
         return y.reshape({x.size(0), s.d_out()});
       },
       {a, b},
       ""});
  return result;
}

void run_once(
    const Implementation& implementation,
    Pass pass,
    const Tensor& x,
    const Tensor& grad) {
  std::optional<ops::ForcedKernel> forced;
  if (!implementation.kernel.empty()) {
    forced.emplace(implementation.kernel);
  }
  if (pass == Pass::kForward) {
    const torch::NoGradGuard no_grad;
    implementation.layer(x);
    return;
  }
  std::vector<Tensor> operands = implementation.weights;
  operands.push_back(x);
  torch::autograd::grad({implementation.layer(x)}, operands, {grad});
}

struct Shape {
  const LayersOptions& options;
  structure::Structure layer;
};

// Bytes that have to move: activations once each way, weights once each use.
double bytes_moved(const Shape& shape, bool dense, Pass pass) {
  const auto tokens = static_cast<double>(shape.options.tokens);
  const double d_in = static_cast<double>(shape.layer.d_in);
  const double d_out = static_cast<double>(shape.layer.d_out);
  const double weights =
      dense ? d_in * d_out
            : static_cast<double>(structure::parameters(shape.layer));
  const double size =
      static_cast<double>(c10::elementSize(shape.options.dtype));
  const double forward = tokens * (d_in + d_out) + weights;
  // Backward reads x and the gradient, writes the gradient of x, and reads and
  // writes weights.
  const double backward = tokens * (2 * d_in + d_out) + 2 * weights;
  return size * (pass == Pass::kForward ? forward : forward + backward);
}

void measure(
    const Shape& shape, const Ceilings& ceilings, Timer& timer, Json& rows) {
  const LayersOptions& options = shape.options;
  const structure::Structure& layer = shape.layer;
  const auto candidates = implementations(options, layer);
  const auto like =
      torch::TensorOptions().device(options.device).dtype(options.dtype);
  std::vector<Tensor> inputs;
  std::vector<Tensor> grads;
  for (std::size_t i = 0; i < kInputs; ++i) {
    inputs.push_back(
        torch::randn({options.tokens, layer.d_in}, like).requires_grad_());
    grads.push_back(torch::randn({options.tokens, layer.d_out}, like));
  }
  for (const Pass pass : {Pass::kForward, Pass::kForwardBackward}) {
    std::vector<std::vector<double>> times(candidates.size());
    // The first two rounds warm up.
    constexpr std::int64_t kWarmup = 2;
    for (std::int64_t round = -kWarmup; round < options.repeats; ++round) {
      for (std::size_t i = 0; i < candidates.size(); ++i) {
        const auto input = static_cast<std::size_t>(round + kWarmup) % kInputs;
        const double elapsed = timer.milliseconds([&] {
          run_once(candidates[i], pass, inputs[input], grads[input]);
        });
        if (round >= 0) {
          times[i].push_back(elapsed);
        }
      }
    }
    const double dense_ms = summarise(times[0]).median;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const Times found = summarise(times[i]);
      const bool dense = candidates[i].name == "dense";
      const double macs = dense ? static_cast<double>(layer.d_in * layer.d_out)
                                : static_cast<double>(structure::macs(layer));
      const double flops = 2 * macs * static_cast<double>(options.tokens) *
                           (pass == Pass::kForward ? 1 : 3);
      const double bytes = bytes_moved(shape, dense, pass);
      const double limit = limit_ms(ceilings, flops, bytes);
      rows.push_back(
          {{"structure", layer.spec.text},
           {"d_in", layer.d_in},
           {"d_out", layer.d_out},
           {"rank", layer.dense ? layer.d_in : layer.sizes.rho},
           {"tokens", options.tokens},
           {"dtype",
            std::string(
                options.dtype == torch::kBFloat16  ? "bfloat16"
                : options.dtype == torch::kFloat16 ? "float16"
                : options.dtype == torch::kFloat64 ? "float64"
                                                   : "float32")},
           {"pass", pass == Pass::kForward ? "forward" : "forward_backward"},
           {"implementation", candidates[i].name},
           {"median_ms", found.median},
           {"min_ms", found.min},
           {"spread", found.spread},
           {"gflops", flops * 1e-6 / found.median},
           {"gb_per_s", bytes * 1e-6 / found.median},
           {"limit_ms", limit},
           {"share_of_limit", limit / found.median},
           {"ratio_to_dense", dense_ms / found.median}});
    }
  }
}

}  // namespace

Json measure_layers(
    const LayersOptions& options,
    const std::function<void(const std::string&)>& progress) {
  // All layers first: a bad one is told before anything is measured.
  std::vector<Shape> shapes;
  for (const Width& width : options.widths) {
    for (const std::string& text : options.structures) {
      shapes.push_back(
          {options,
           structure::realise(
               structure::parse(text), width.d_in, width.d_out)});
    }
  }
  Timer timer(options.device);
  progress("the ceilings of the machine");
  const Ceilings ceilings =
      measure_ceilings(options.device, options.dtype, timer);
  Json rows = Json::array();
  for (const Shape& shape : shapes) {
    progress(fmt::format(
        "{} {} -> {}",
        shape.layer.spec.text,
        shape.layer.d_in,
        shape.layer.d_out));
    measure(shape, ceilings, timer, rows);
  }
  return {{"device", device_json(options, ceilings)}, {"rows", rows}};
}

std::string to_table(const Json& report) {
  const Json& device = report["device"];
  std::string text = fmt::format(
      "{}, matmul {:.0f} GFLOP/s, copy {:.1f} GB/s\n\n"
      "{:<22}{:>12}  {:<17}{:<11}{:>10}{:>10}{:>8}{:>9}{:>8}{:>9}\n",
      device["name"].get<std::string>(),
      device["matmul_gflops"].get<double>(),
      device["copy_gb_per_s"].get<double>(),
      "structure",
      "in x out",
      "pass",
      "kernel",
      "ms",
      "best ms",
      "spread",
      "GFLOP/s",
      "limit",
      "x dense");
  for (const Json& row : report["rows"]) {
    text += fmt::format(
        "{:<22}{:>12}  {:<17}{:<11}{:>10.3f}{:>10.3f}{:>7.0f}%{:>9.0f}{:>7.0f}%"
        "{:>9.2f}\n",
        row["structure"].get<std::string>(),
        fmt::format(
            "{}x{}",
            row["d_in"].get<std::int64_t>(),
            row["d_out"].get<std::int64_t>()),
        row["pass"].get<std::string>(),
        row["implementation"].get<std::string>(),
        row["median_ms"].get<double>(),
        row["min_ms"].get<double>(),
        100 * row["spread"].get<double>(),
        row["gflops"].get<double>(),
        100 * row["share_of_limit"].get<double>(),
        row["ratio_to_dense"].get<double>());
  }
  return text;
}

}  // namespace einforge::bench
