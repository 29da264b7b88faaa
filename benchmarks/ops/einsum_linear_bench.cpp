#include "einforge/ops/einsum_linear.h"

#include <benchmark/benchmark.h>
#include <torch/types.h>

#include <optional>
#include <string>
#include <vector>

#include "einforge/ops/kernel_table.h"
#include "einforge/structure/structure.h"

namespace einforge {
namespace {

using torch::Tensor;

struct Operands {
  Tensor x, a, b, grad;
};

Operands make(const structure::Sizes& s, std::int64_t tokens) {
  const auto normal = [](c10::IntArrayRef sizes) {
    return torch::randn(sizes);
  };
  return {
      normal({tokens, s.d_in()}),
      ops::core_a_layout(normal({s.alpha, s.gamma, s.delta, s.phi, s.rho}), s),
      ops::core_b_layout(normal({s.beta, s.gamma, s.epsilon, s.phi, s.rho}), s),
      normal({tokens, s.d_out()})};
}

void run(
    benchmark::State& state,
    const std::string& spec,
    const std::string& kernel,
    bool backward) {
  const std::int64_t width = state.range(0);
  const std::int64_t tokens = state.range(1);
  const structure::Structure layer =
      structure::realise(structure::parse(spec), width, width);
  const Operands o = make(layer.sizes, tokens);
  const torch::NoGradGuard no_grad;
  std::optional<ops::ForcedKernel> forced;
  if (!kernel.empty()) {
    forced.emplace(kernel);
  }
  for (auto _ : state) {
    if (backward) {
      benchmark::DoNotOptimize(ops::einsum_linear_backward(
          o.grad, o.x, o.a, o.b, {true, true, true, false}));
    } else {
      benchmark::DoNotOptimize(ops::einsum_linear(o.x, o.a, o.b));
    }
  }
  const double macs = static_cast<double>(structure::macs(layer) * tokens);
  state.counters["FLOP/s"] = benchmark::Counter(
      macs * (backward ? 4 : 2), benchmark::Counter::kIsIterationInvariantRate);
}

int registered = [] {
  for (const char* spec :
       {"monarch", "btt:0.25", "kronecker", "low_rank:0.5"}) {
    for (const char* kernel : {"", "bmm"}) {
      for (const bool backward : {false, true}) {
        benchmark::RegisterBenchmark(
            (std::string(spec) + (backward ? "/backward/" : "/forward/") +
             (*kernel == '\0' ? "chosen" : kernel))
                .c_str(),
            run,
            spec,
            kernel,
            backward)
            ->ArgsProduct({{256, 1024}, {1, 64, 2048}})
            ->ArgNames({"width", "tokens"})
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
  return 0;
}();

}  // namespace
}  // namespace einforge
