#include "einforge/ops/cuda/btt_moe_fused.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "einforge/kernels/cuda/btt_backward.h"
#include "einforge/kernels/cuda/btt_resident.h"
#include "einforge/kernels/cuda/moe_router.h"
#include "einforge/kernels/cuda/moe_router_backward.h"
#include "einforge/kernels/cuda/moe_rows.h"
#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/cuda/btt_two_pass.h"
#include "einforge/ops/cuda/moe_router.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/moe_routing.h"
#include "einforge/ops/operands.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
using torch::Tensor;

// The pairs in the order of their experts, as the kernels take them; and their
// gates in that order where there is a bin for every slot.
struct Dispatch {
  MoeDispatch pairs;
  Tensor gates;
  ek::RoutedRows rows;

  // With a bin for every slot where kernels that add one slot's rows to
  // another's round as often as a sum of them would.
  static Dispatch of(const MoeRouting& routing, std::int64_t count) {
    const std::int64_t active = routing.experts.size(1);
    if (active > 2 || active * count > ek::kMoeExperts) {
      return {moe_dispatch(routing.experts, count), Tensor(), routing, count};
    }
    auto [pairs, gates] = fused::dispatch_slots(routing, count);
    return {std::move(pairs), std::move(gates), routing, count};
  }

  Dispatch(
      MoeDispatch given,
      Tensor sorted_gates,
      const MoeRouting& routing,
      std::int64_t count)
      : pairs(std::move(given)),
        gates(std::move(sorted_gates)),
        rows{
            .offsets = pairs.offsets.const_data_ptr<std::int32_t>(),
            .order = pairs.order.const_data_ptr<std::int32_t>(),
            .experts = static_cast<int>(count),
            .active = static_cast<int>(routing.experts.size(1)),
            .pairs = static_cast<int>(routing.experts.numel())} {
    rows.bins = static_cast<int>((pairs.offsets.numel() - 1) / count);
    rows.last = rows.bins;
  }
};

// A problem as the kernels see it: the core contracted first is A.
struct Layer {
  ek::BttSizes sizes;
  ek::BttCores cores;
  bool ab;

  Layer(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : Layer(Contraction(problem.expert.sizes), operands) {}
  Layer(const Contraction& c, const BttMoeOperands& operands)
      : sizes(btt::sizes_of(c)), ab(c.ab()) {
    const Tensor& first = ab ? operands.core_a : operands.core_b;
    const Tensor& second = ab ? operands.core_b : operands.core_a;
    cores = btt::cores_of(first, second);
    cores.experts = static_cast<int>(first.size(0));
    cores.a_expert = first.stride(0);
    cores.b_expert = second.stride(0);
  }
};

// All there is for mixtures.
constexpr ek::BttPlan kPlan{.kernel = ek::BttKernel::kResident};

// Packs the cores and calls run(launch, stream); y has so many rows.
template <typename Run>
Tensor run_layer(
    const ek::BttSizes& sizes,
    const ek::BttCores& cores,
    const Tensor& x,
    std::int64_t y_rows,
    const Run& run) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor packed = btt::workspace(
      x,
      static_cast<std::size_t>(cores.experts) *
          ek::btt_packed_bytes(ek::btt_packed_sizes(sizes, kPlan)));
  Tensor y = torch::empty({y_rows, sizes.d_out()}, x.options());
  const ek::BttLaunch launch{
      .x = btt::data(x),
      .y = btt::mutable_data(y),
      .x_stride = sizes.d_in(),
      .y_stride = sizes.d_out(),
      .tokens = x.size(0),
      .packed = packed.mutable_data_ptr()};
  C10_CUDA_CHECK(ek::btt_pack(sizes, cores, launch.packed, stream, kPlan));
  C10_CUDA_CHECK(run(launch, stream));
  return y;
}

// Every pair's row of the layer: (pairs, d_out).
Tensor run_rows(
    const ek::BttSizes& sizes,
    const ek::BttCores& cores,
    const Tensor& x,
    const ek::RoutedRows& rows) {
  return run_layer(
      sizes,
      cores,
      x,
      rows.pairs,
      [&](const ek::BttLaunch& launch, cudaStream_t stream) {
        return ek::resident_routed_rows(
            sizes, launch, rows, device_limits(), stream);
      });
}

// Both stages on chip at the sizes that there is a kernel for, or two passes
// with z in memory at any size.
enum class Way { kResident, kTwoPass };
constexpr std::array kWays{Way::kResident, Way::kTwoPass};

constexpr std::string_view name_of(Way way) {
  return way == Way::kResident ? "fused" : "two_pass";
}

bool supports(Way way, const BttMoeProblem& problem) {
  const EinsumLinearProblem& expert = problem.expert;
  if (expert.dtype != torch::kBFloat16 ||
      expert.device != torch::DeviceType::CUDA ||
      problem.experts > ek::kMoeExperts || problem.active > ek::kMoeActive ||
      expert.tokens * problem.active > std::numeric_limits<int>::max() / 2) {
    return false;
  }
  const Contraction c(expert.sizes);
  if (!btt::is_btt(c)) {
    return false;
  }
  const ek::BttSizes sizes = btt::sizes_of(c);
  const ek::DeviceLimits& limits = device_limits();
  if (way == Way::kTwoPass) {
    // The sum over the rows of a token takes vectors of eight.
    return limits.major == 9 && sizes.d_in() % 8 == 0 &&
           sizes.d_out() % 8 == 0 &&
           two_pass::supports(
               sizes,
               expert.tokens * problem.active,
               static_cast<int>(problem.experts),
               expert.pass);
  }
  if (expert.pass == Pass::kForward) {
    return ek::resident_routed_supports(sizes, limits);
  }
  return ek::resident_routed_supports(sizes.transposed(), limits) &&
         ek::btt_backward_supports(sizes, limits);
}

Tensor forward(
    Way way,
    const BttMoeProblem& problem,
    const BttMoeOperands& operands,
    const Dispatch& dispatch,
    const Tensor& bias) {
  const Layer layer(problem, operands);
  const Tensor x = btt::aligned(operands.x);
  const Tensor gates = operands.gates.to(torch::kFloat32);
  const two_pass::Layer passes{layer.sizes, layer.cores, dispatch.rows};
  if (dispatch.gates.defined() && way == Way::kTwoPass) {
    return two_pass::sum(passes, x, gates, bias);
  }
  if (dispatch.gates.defined()) {
    const Tensor padded = btt::padded_bias(
        bias, layer.sizes, ek::btt_packed_sizes(layer.sizes, kPlan));
    return run_layer(
        layer.sizes,
        layer.cores,
        x,
        x.size(0),
        [&](ek::BttLaunch launch, cudaStream_t stream) {
          launch.bias = padded.defined() ? btt::data(padded) : nullptr;
          return ek::resident_routed_mixture(
              layer.sizes,
              launch,
              dispatch.rows,
              dispatch.gates.const_data_ptr<float>(),
              device_limits(),
              stream);
        });
  }
  const Tensor rows =
      way == Way::kTwoPass
          ? two_pass::rows(passes, x)
          : run_rows(layer.sizes, layer.cores, x, dispatch.rows);
  Tensor y = torch::empty({x.size(0), layer.sizes.d_out()}, x.options());
  C10_CUDA_CHECK(ek::moe_combine(
      {.rows = btt::data(rows),
       .gates = gates.const_data_ptr<float>(),
       .tokens = x.size(0),
       .active = dispatch.rows.active,
       .width = layer.sizes.d_out(),
       .sum = btt::mutable_data(y)},
      c10::cuda::getCurrentCUDAStream()));
  return bias.defined() ? y.add_(bias) : y;
}

Dispatch dispatch_of(
    const BttMoeProblem& problem, const BttMoeOperands& operands) {
  return Dispatch::of(
      {operands.experts, operands.gates.to(torch::kFloat32)}, problem.experts);
}

template <Way kWay>
Tensor forward(const BttMoeProblem& problem, const BttMoeOperands& operands) {
  return forward(
      kWay,
      problem,
      operands,
      dispatch_of(problem, operands),
      /*bias=*/Tensor());
}

// Of the router, beside the layer's own. What else its scores and gates went
// to, or undefined: (T, E) and (T, k).
struct RouterGradient {
  Tensor weight;
  Tensor logits;
  bool softmax_first;
  Tensor dlogits;
  Tensor dgates;
  bool asked;
  Tensor dweight;
};

// The sum of the rows, and all that the router adds to it.
Tensor finish_routed(
    const Tensor& rows,
    const Tensor& x,
    const BttMoeOperands& operands,
    bool dx_asked,
    RouterGradient& router) {
  const auto pointer = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
  };
  const auto tokens = x.size(0);
  const auto d = static_cast<int>(x.size(1));
  const auto experts = static_cast<int>(router.weight.size(0));
  const Tensor dx = dx_asked ? torch::empty_like(x) : Tensor();
  const Tensor space =
      btt::workspace(x, ek::moe_router_backward_bytes(tokens, experts, d));
  if (router.asked) {
    router.dweight = torch::empty_like(router.weight);
  }
  C10_CUDA_CHECK(ek::moe_router_backward(
      {.x = btt::data(x),
       .weight = pointer(router.weight),
       .d = d,
       .dlogits = pointer(router.dlogits),
       .rows = btt::data(rows),
       .dgates = pointer(router.dgates),
       .route = fused::route_launch(
           router.logits,
           {operands.experts, operands.gates},
           router.softmax_first),
       .workspace = space.mutable_data_ptr(),
       .dx = dx_asked ? btt::mutable_data(dx) : nullptr,
       .dweight =
           router.asked ? router.dweight.mutable_data_ptr<float>() : nullptr},
      c10::cuda::getCurrentCUDAStream()));
  return dx;
}

// With r = rows of the transposed layer on dy: dx[t] = sum_j g[t,j] r[t,j], and
// since <dy, layer(x)> = <r, x>, dg[t,j] = r[t,j] . x[t].
BttMoeGradients backward(
    Way way,
    const BttMoeProblem& problem,
    const Tensor& grad,
    const BttMoeOperands& operands,
    const GradientMask& mask,
    const Dispatch& dispatch,
    RouterGradient* router) {
  const Layer layer(problem, operands);
  const two_pass::Layer passes{layer.sizes, layer.cores, dispatch.rows};
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const Tensor x = btt::aligned(operands.x);
  const Tensor dy = way == Way::kTwoPass
                        ? two_pass::padded_input(passes.transposed(), grad)
                        : btt::aligned(grad);
  const Tensor gates = operands.gates.to(torch::kFloat32);
  Tensor dz;  // where both dx and the cores' gradients want it
  const auto input_rows = [&] {
    return way == Way::kTwoPass ? two_pass::rows(
                                      passes.transposed(),
                                      dy,
                                      mask[1] || mask[2] ? &dz : nullptr)
                                : run_rows(
                                      layer.sizes.transposed(),
                                      layer.cores.transposed(),
                                      dy,
                                      dispatch.rows);
  };
  BttMoeGradients result;
  if (router != nullptr && (mask[0] || router->asked)) {
    const Tensor rows = input_rows();
    result.x = finish_routed(rows, x, operands, mask[0], *router);
  } else if (mask[0] || mask[3]) {
    const Tensor rows = input_rows();
    result.x = mask[0] ? torch::empty_like(x) : Tensor();
    result.gates = mask[3] ? torch::empty_like(gates) : Tensor();
    C10_CUDA_CHECK(ek::moe_combine(
        {.rows = btt::data(rows),
         .gates = gates.const_data_ptr<float>(),
         .tokens = x.size(0),
         .active = dispatch.rows.active,
         .width = layer.sizes.d_in(),
         .sum = mask[0] ? btt::mutable_data(result.x) : nullptr,
         .other = mask[3] ? btt::data(x) : nullptr,
         .dots = mask[3] ? result.gates.mutable_data_ptr<float>() : nullptr},
        stream));
    if (mask[3]) {
      result.gates = result.gates.to(operands.gates.scalar_type());
    }
  }
  if (mask[1] || mask[2]) {
    result.core_a = torch::empty_like(operands.core_a);
    result.core_b = torch::empty_like(operands.core_b);
    const Tensor& first = layer.ab ? result.core_a : result.core_b;
    const Tensor& second = layer.ab ? result.core_b : result.core_a;
    if (way == Way::kTwoPass) {
      two_pass::core_gradients(passes, x, dy, gates, dz, first, second);
      return result;
    }
    btt::core_gradients(
        layer.sizes,
        layer.cores,
        x,
        dy,
        first,
        second,
        {.rows = dispatch.rows,
         .gates = gates.const_data_ptr<float>(),
         .da_expert = first.stride(0),
         .db_expert = second.stride(0)});
  }
  return result;
}

template <Way kWay>
BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& grad,
    const BttMoeOperands& operands,
    const GradientMask& mask) {
  return backward(
      kWay,
      problem,
      grad,
      operands,
      mask,
      dispatch_of(problem, operands),
      nullptr);
}

// What a mixture's choice is remembered under.
struct Key {
  ProblemKey expert;
  std::int64_t experts;
  std::int64_t active;
  int device = 0;

  explicit Key(const BttMoeProblem& p)
      : expert(problem_key(p.expert)), experts(p.experts), active(p.active) {
    C10_CUDA_CHECK(cudaGetDevice(&device));
  }
  auto operator<=>(const Key&) const = default;
};

// Random operands of a mixture whose experts have nearly the same number of
// tokens, and its pairs.
struct Example {
  BttMoeOperands operands;
  Tensor grad;
  std::optional<Dispatch> dispatch;

  explicit Example(const BttMoeProblem& p) {
    const EinsumLinearProblem& e = p.expert;
    const structure::Sizes& s = e.sizes;
    const auto core = [&](std::int64_t in, std::int64_t out) {
      return random_values(
          {p.experts, in, s.gamma, out, s.phi, s.rho}, e.dtype);
    };
    const Tensor scores = random_values({e.tokens, p.experts}, torch::kFloat32);
    const MoeRouting routing =
        fused::route(scores, p.active, {.softmax_first = true});
    operands = {
        .x = random_values({e.tokens, s.d_in()}, e.dtype),
        .core_a = expert_core_a_layout(core(s.alpha, s.delta), s),
        .core_b = expert_core_b_layout(core(s.beta, s.epsilon), s),
        .experts = routing.experts,
        .gates = routing.gates};
    if (e.pass == Pass::kBackward) {
      grad = random_values({e.tokens, s.d_out()}, e.dtype);
    }
    dispatch = Dispatch::of(routing, p.experts);
  }
};

void run_example(Way way, const BttMoeProblem& problem, const Example& v) {
  if (problem.expert.pass == Pass::kForward) {
    forward(way, problem, v.operands, *v.dispatch, /*bias=*/Tensor());
  } else {
    backward(
        way,
        problem,
        v.grad,
        v.operands,
        {true, true, true, true},
        *v.dispatch,
        /*router=*/nullptr);
  }
}

// Of the ways that take the problem the fastest, measured where there are
// several; or none. Not what is forced.
std::optional<Way> fastest_way(const BttMoeProblem& asked) {
  static std::mutex mutex;
  static std::map<Key, std::optional<Way>> known;
  const Key key(asked);
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(key); found != known.end()) {
      return found->second;
    }
  }
  BttMoeProblem problem = asked;
  problem.expert.tokens = token_bucket(asked.expert.tokens);
  std::vector<Way> ways;
  for (const Way each : kWays) {
    if (supports(each, problem)) {
      ways.push_back(each);
    }
  }
  std::optional<Way> way;
  if (!ways.empty()) {
    way = ways.front();
  }
  if (ways.size() > 1) {
    const auto name = fastest_of(problem.to_string(), [&] {
      const auto example = std::make_shared<Example>(problem);
      std::vector<Candidate> candidates;
      for (const Way each : ways) {
        candidates.push_back(
            {std::string(name_of(each)), [&problem, each, example] {
               run_example(each, problem, *example);
             }});
      }
      return candidates;
    });
    if (!name) {
      return way;  // perhaps measured next time
    }
    if (const auto found = std::ranges::find(ways, *name, name_of);
        found != ways.end()) {
      way = *found;
    }
  }
  const std::lock_guard lock(mutex);
  return known.try_emplace(key, way).first->second;
}

// Which way a pass of a mixture goes, or none.
std::optional<Way> way_of(const BttMoeProblem& problem) {
  const std::string& forced = forced_kernel();
  if (forced.empty()) {
    return fastest_way(problem);
  }
  for (const Way way : kWays) {
    if (forced == name_of(way) && supports(way, problem)) {
      return way;
    }
  }
  return std::nullopt;
}

template <Way kWay>
BttMoeKernel kernel() {
  return {
      .name = name_of(kWay),
      .supports =
          [](const BttMoeProblem& problem) { return supports(kWay, problem); },
      .forward = forward<kWay>,
      .backward = backward<kWay>,
      .preferred =
          [](const BttMoeProblem& problem) {
            return fastest_way(problem) == kWay;
          }};
}

BttMoeProblem problem_of(
    const fused::RoutedOperands& operands, std::int64_t active, Pass pass) {
  const Tensor& x = operands.x;
  const structure::Sizes sizes = expert_sizes(operands.core_a, operands.core_b);
  return {
      .expert =
          {.sizes = sizes,
           .tokens = x.numel() / sizes.d_in(),
           .dtype = x.scalar_type(),
           .device = x.device().type(),
           .pass = pass},
      .experts = operands.core_a.size(0),
      .active = active};
}

// As choose_row() does.
void log(const BttMoeProblem& problem, Way way) {
  internal::note_choice(
      name_of(way), [&] { return problem.to_string() + ", with router"; });
}

BttMoeOperands operands_of(
    const fused::RoutedOperands& operands, const MoeRouting& routing) {
  return {
      .x = operands.x.reshape({-1, operands.x.size(-1)}).contiguous(),
      .core_a = operands.core_a,
      .core_b = operands.core_b,
      .experts = routing.experts,
      .gates = routing.gates};
}

}  // namespace

namespace fused {

bool takes_routed(const RoutedOperands& operands, std::int64_t active) {
  const Tensor& x = operands.x;
  const Tensor& router = operands.router;
  for (const Tensor* core : {&operands.core_a, &operands.core_b}) {
    if (core->scalar_type() != x.scalar_type() ||
        core->device() != x.device()) {
      return false;
    }
  }
  if (operands.bias.defined() && operands.bias.device() != x.device()) {
    return false;
  }
  if (!x.is_cuda() || router.dim() != 2 || router.device() != x.device() ||
      active < 1 || active > router.size(0) || !takes_logits(x, router)) {
    return false;
  }
  const structure::Sizes sizes = expert_sizes(operands.core_a, operands.core_b);
  return sizes.d_in() == x.size(-1) && sizes.d_in() == router.size(1) &&
         operands.core_a.size(0) == router.size(0) &&
         way_of(problem_of(operands, active, Pass::kForward)).has_value() &&
         way_of(problem_of(operands, active, Pass::kBackward)).has_value();
}

RoutedForward routed_forward(
    const RoutedOperands& operands,
    std::int64_t active,
    const MoeRouteOptions& options) {
  const c10::cuda::CUDAGuard guard(operands.x.device());
  RoutedForward result;
  std::tie(result.logits, result.routing) =
      logits_route(operands.x, operands.router, active, options);
  const Dispatch dispatch =
      Dispatch::of(result.routing, operands.router.size(0));
  const BttMoeProblem problem = problem_of(operands, active, Pass::kForward);
  const Way way = way_of(problem).value();
  log(problem, way);
  result.y =
      forward(
          way,
          problem,
          operands_of(operands, result.routing),
          dispatch,
          operands.bias.defined()
              ? operands.bias.to(operands.x.scalar_type()).contiguous()
              : Tensor())
          .view(with_last(operands.x.sizes(), problem.expert.sizes.d_out()));
  return result;
}

RoutedGradients routed_backward(
    const RoutedOperands& operands,
    const RoutedForward& saved,
    const RoutedOutputGradients& grads,
    bool softmax_first,
    const GradientMask& mask) {
  const c10::cuda::CUDAGuard guard(operands.x.device());
  const auto dense = [](const Tensor& grad) {
    return grad.defined() ? grad.contiguous() : grad;
  };
  RouterGradient router{
      .weight = operands.router.contiguous(),
      .logits = saved.logits,
      .softmax_first = softmax_first,
      .dlogits = dense(grads.logits),
      .dgates = dense(grads.gates),
      .asked = mask[1]};
  const BttMoeProblem problem =
      problem_of(operands, saved.routing.gates.size(1), Pass::kBackward);
  const Way way = way_of(problem).value();
  log(problem, way);
  const BttMoeGradients found = backward(
      way,
      problem,
      grads.y.reshape({problem.expert.tokens, -1}).contiguous(),
      operands_of(operands, saved.routing),
      {mask[0], mask[2], mask[3], false},
      Dispatch::of(saved.routing, problem.experts),
      &router);
  return {
      mask[0] ? found.x.view(operands.x.sizes()) : Tensor(),
      router.dweight,
      mask[2] ? found.core_a : Tensor(),
      mask[3] ? found.core_b : Tensor()};
}

}  // namespace fused

BttMoeKernel fused_moe_kernel() {
  return kernel<Way::kResident>();
}

BttMoeKernel two_pass_moe_kernel() {
  return kernel<Way::kTwoPass>();
}

}  // namespace einforge::ops
