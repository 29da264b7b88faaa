#include "einforge/ops/cuda/btt_two_pass.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/pad_rows.h"
#include "einforge/kernels/cuda/two_pass.h"
#include "einforge/kernels/cuda/two_pass/layer.h"
#include "einforge/ops/cuda/btt_linear.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/cuda/jit_kernels.h"
#include "einforge/ops/sum_of_rows.h"

namespace einforge::ops {
namespace {

namespace ek = kernels::cuda;
namespace tp = kernels::cuda::two_pass;
using torch::Tensor;
using tp::kVector;
using tp::padded;

template <typename Shape>
struct Kernel {
  Shape shape;
  tp::LoadedKernel loaded;
};

// The two stages of a layer.
struct Stages {
  Kernel<tp::StageShape> first;
  Kernel<tp::StageShape> second;
};

// Of both cores.
struct Gradients {
  Kernel<tp::GradShape> first;
  Kernel<tp::GradShape> second;
};

// What a layer runs on; rows count in powers of two.
struct Key {
  std::array<std::int64_t, 8> numbers;

  Key(const ek::BttSizes& s, std::int64_t rows, int experts)
      : numbers{
            s.alpha,
            s.gamma,
            s.epsilon,
            s.phi,
            s.rho,
            tp::row_class(rows),
            experts,
            0} {
    int device = 0;
    C10_CUDA_CHECK(cudaGetDevice(&device));
    numbers[7] = device;
  }
  auto operator<=>(const Key&) const = default;
};

template <typename Value>
class Table {
 public:
  // The value of a key, from make(key) where it is not known; null where make
  // has none.
  template <typename Make>
  const Value* find(const Key& key, const Make& make) {
    const std::lock_guard lock(mutex_);
    const auto [found, added] = values_.try_emplace(key);
    if (added) {
      found->second = make();
    }
    return found->second ? &*found->second : nullptr;
  }

 private:
  std::mutex mutex_;
  std::map<Key, std::optional<Value>> values_;
};

// Loads the kernels of some shapes, compiled at the same time; none where one
// of them cannot be.
template <typename Shape>
std::vector<Kernel<Shape>> load(const std::vector<Shape>& shapes) {
  std::vector<std::string> sources;
  for (const Shape& shape : shapes) {
    sources.push_back(tp::source_of(shape));
  }
  std::vector<Kernel<Shape>> kernels;
  for (const auto& cubin : jit_kernels().get(sources, jit_architecture())) {
    if (!cubin) {
      return {};
    }
    Kernel<Shape> kernel{shapes[kernels.size()], {}};
    C10_CUDA_CHECK(tp::load(*cubin, &kernel.loaded));
    kernels.push_back(kernel);
  }
  return kernels;
}

const Stages* find_stages(
    const ek::BttSizes& s, std::int64_t rows, int experts) {
  static Table<Stages> table;
  const Key key(s, rows, experts);
  return table.find(key, [&]() -> std::optional<Stages> {
    const auto kernels =
        load(tp::stage_shapes(s, rows, experts, plan_device()));
    if (kernels.empty()) {
      return std::nullopt;
    }
    return Stages{kernels[0], kernels[1]};
  });
}

const Gradients* find_gradients(
    const ek::BttSizes& s, std::int64_t rows, int experts) {
  static Table<Gradients> table;
  const Key key(s, rows, experts);
  return table.find(key, [&]() -> std::optional<Gradients> {
    const auto kernels = load(tp::gradient_shapes(s, plan_device()));
    return kernels.empty() ? std::nullopt
                           : std::optional(Gradients{kernels[0], kernels[1]});
  });
}

// (count, outer, inner) as (count, outer, padded inner), contiguous; also where
// it is so already.
Tensor with_padding(const Tensor& x, int outer, int inner) {
  const int size = padded(inner);
  const std::int64_t width = static_cast<std::int64_t>(outer) * size;
  const Tensor from = btt::aligned(x);
  if (x.size(1) == width) {
    return from;
  }
  const Tensor to = torch::empty({x.size(0), width}, x.options());
  C10_CUDA_CHECK(ek::pad_rows(
      {.from = btt::data(from),
       .to = btt::mutable_data(to),
       .rows = x.size(0) * outer,
       .inner = inner,
       .padded = size},
      c10::cuda::getCurrentCUDAStream()));
  return to;
}

// Also of rows that have none.
Tensor without_padding(const Tensor& y, int outer, int inner) {
  const int size = padded(inner);
  if (y.size(1) == static_cast<std::int64_t>(outer) * inner) {
    return y;
  }
  const Tensor to = torch::empty(
      {y.size(0), static_cast<std::int64_t>(outer) * inner}, y.options());
  C10_CUDA_CHECK(ek::unpad_rows(
      {.from = btt::data(y),
       .to = btt::mutable_data(to),
       .rows = y.size(0) * outer,
       .inner = inner,
       .padded = size},
      c10::cuda::getCurrentCUDAStream()));
  return to;
}

void run(const Kernel<tp::StageShape>& kernel, const tp::StageLaunch& launch) {
  C10_CUDA_CHECK(tp::launch(
      kernel.loaded,
      kernel.shape,
      launch,
      device_limits(),
      c10::cuda::getCurrentCUDAStream()));
}

const float* gates_of(const Tensor& gates) {
  return gates.defined() ? gates.const_data_ptr<float>() : nullptr;
}

// The weights of the first stage, and of the second where that is asked for.
std::array<Tensor, 2> pack(
    const Stages& stages,
    const two_pass::Layer& layer,
    const Tensor& like,
    bool both) {
  const tp::StageShape* const shapes[] = {
      &stages.first.shape, &stages.second.shape};
  std::array<Tensor, 2> packed;
  std::vector<tp::PackedCore> targets;
  for (std::size_t i = 0; i < (both ? 2 : 1); ++i) {
    packed[i] =
        btt::workspace(like, tp::packed_bytes(*shapes[i], layer.cores.experts));
    targets.push_back({*shapes[i], packed[i].mutable_data_ptr()});
  }
  C10_CUDA_CHECK(tp::pack(
      targets, layer.sizes, layer.cores, c10::cuda::getCurrentCUDAStream()));
  return packed;
}

const Stages& stages_of(const two_pass::Layer& layer) {
  const Stages* stages =
      find_stages(layer.sizes, layer.rows.pairs, layer.cores.experts);
  TORCH_CHECK(stages != nullptr, "[two_pass] expected sizes with kernels");
  return *stages;
}

const Gradients& gradients_of(const two_pass::Layer& layer) {
  const Gradients* kernels = find_gradients(
      padded(layer.sizes), layer.rows.pairs, layer.cores.experts);
  TORCH_CHECK(kernels != nullptr, "[two_pass] expected sizes with kernels");
  return *kernels;
}

// z of every pair, times its gate: slabs of (gamma vector, pair, rho, phi).
Tensor first_stage(
    const two_pass::Layer& layer,
    const Tensor& x,
    const Tensor& gates,
    Tensor packed = Tensor()) {
  const Stages& stages = stages_of(layer);
  const ek::BttSizes s = padded(layer.sizes);
  const Tensor in = with_padding(x, s.alpha, layer.sizes.gamma);
  if (!packed.defined()) {
    packed = pack(stages, layer, x, /*both=*/false)[0];
  }
  Tensor z = torch::empty(
      {s.gamma / kVector, layer.rows.pairs, s.phi * s.rho, kVector},
      x.options());
  run(stages.first,
      {.in = in.const_data_ptr(),
       .out = z.mutable_data_ptr(),
       .in_rows = x.size(0),
       .weights = packed.const_data_ptr(),
       .gates = gates_of(gates),
       .rows = layer.rows,
       .row_divisor = layer.rows.active});
  return z;
}

// As the second stage writes it: with phi padded, or as it is.
Tensor empty_output(
    const two_pass::Layer& layer, const Tensor& like, std::int64_t rows) {
  const int width = stages_of(layer).second.shape.width;
  return torch::empty(
      {rows,
       static_cast<std::int64_t>(layer.sizes.epsilon) *
           (width != 0 ? width : padded(layer.sizes.phi))},
      like.options());
}

// The gradient of the core contracted first, (.., in, gamma, 1, phi, rho), from
// activations x and slabs dz.
void gradient(
    const Kernel<tp::GradShape>& kernel,
    const two_pass::Layer& layer,
    const Tensor& x,
    const Tensor& dz,
    const Tensor& gates,
    const Tensor& grad,
    bool first) {
  const tp::GradShape& shape = kernel.shape;
  const ek::BttSizes& s = layer.sizes;
  const Tensor p = with_padding(x, s.alpha, s.gamma);
  const int splits = tp::splits_of(shape, layer.rows.pairs, plan_device());
  const bool mixture = layer.rows.offsets != nullptr;
  const int experts = layer.cores.experts;
  const std::int64_t size = static_cast<std::int64_t>(shape.batch) *
                            shape.rows * shape.rho * shape.columns;
  const Tensor partials = torch::empty(
      {splits + experts - 1, size}, x.options().dtype(torch::kFloat32));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(tp::launch(
      kernel.loaded,
      shape,
      {.p = p.const_data_ptr(),
       .p_rows = x.size(0),
       .q = dz.const_data_ptr(),
       .gates = gates_of(gates),
       .partials = partials.mutable_data_ptr<float>(),
       .rows = layer.rows,
       .splits = splits},
      stream));
  const bool exact = shape.batch == s.gamma && shape.columns == s.phi;
  // Of the padded core, (experts, gamma, alpha, phi, rho).
  const Tensor whole =
      exact ? Tensor()
            : torch::empty(
                  {experts, shape.batch, shape.rows, shape.columns, shape.rho},
                  x.options());
  const auto strides = [&]() -> ek::BttCores::Strides {
    if (exact) {
      const auto own = btt::strides_of(grad, first);
      return first ? own : own.exchanged();
    }
    return {
        .in = whole.stride(2),
        .gamma = whole.stride(1),
        .phi = whole.stride(3),
        .rho = whole.stride(4)};
  }();
  ek::BttPartials sums;
  sums.splits = splits;
  ek::BttWeightGradSizes sizes;
  sizes.batch = shape.batch;
  sizes.rows = shape.rows;
  sizes.rho = shape.rho;
  sizes.columns = shape.columns;
  sums.cores[0] = {
      .sizes = sizes,
      .sums = partials.const_data_ptr<float>(),
      .grad = btt::mutable_data(exact ? grad : whole),
      .strides = strides,
      .expert_stride =
          exact ? (mixture ? grad.stride(0) : 0) : whole.stride(0)};
  if (mixture) {
    sums.rows = layer.rows;
  }
  C10_CUDA_CHECK(ek::btt_sum_partials(sums, device_limits(), stream));
  if (!exact) {
    // The core itself is (.., in, gamma, 1, phi, rho) or, contracted second,
    // (.., 1, phi of this layer, in, gamma of this layer, rho).
    const Tensor own = whole.narrow(1, 0, s.gamma).narrow(3, 0, s.phi);
    const Tensor ordered =
        first ? own.permute({0, 2, 1, 3, 4}) : own.permute({0, 3, 2, 1, 4});
    const Tensor target = grad.dim() == 5 ? grad.unsqueeze(0) : grad;
    (first ? target.squeeze(3) : target.squeeze(1)).copy_(ordered);
  }
}

bool takes(const EinsumLinearProblem& problem, const Contraction& c) {
  return problem.dtype == torch::kBFloat16 &&
         problem.device == torch::DeviceType::CUDA && btt::is_btt(c) &&
         device_limits().major == 9;
}

bool supports_layer(const EinsumLinearProblem& problem) {
  const Contraction c(problem.sizes);
  return takes(problem, c) &&
         two_pass::supports(
             btt::sizes_of(c), problem.tokens, /*experts=*/1, problem.pass);
}

two_pass::Layer layer_of(
    const Contraction& c,
    const Tensor& first,
    const Tensor& second,
    std::int64_t tokens) {
  two_pass::Layer layer{
      .sizes = btt::sizes_of(c), .cores = btt::cores_of(first, second)};
  layer.rows.pairs = static_cast<int>(tokens);
  return layer;
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const Contraction c(problem.sizes);
  const auto [first, second] = c.ordered(core_a, core_b);
  return two_pass::sum(
      layer_of(c, first, second, problem.tokens),
      x,
      /*gates=*/Tensor(),
      bias ? bias->contiguous() : Tensor());
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction c(problem.sizes);
  const auto [first, second] = c.ordered(core_a, core_b);
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  const two_pass::Layer layer = layer_of(c, first, second, problem.tokens);
  const Tensor dy = two_pass::padded_input(layer.transposed(), grad);
  EinsumLinearGradients result;
  Tensor dz;
  if (mask[0]) {
    result.x =
        two_pass::rows(layer.transposed(), dy, first_asked ? &dz : nullptr);
  }
  const Tensor grad_first = first_asked ? torch::empty_like(first) : Tensor();
  const Tensor grad_second =
      second_asked ? torch::empty_like(second) : Tensor();
  two_pass::core_gradients(
      layer, x, dy, /*gates=*/Tensor(), dz, grad_first, grad_second);
  std::tie(result.core_a, result.core_b) = c.ordered(grad_first, grad_second);
  if (mask[3]) {
    result.bias = sum_of_rows(grad, grad.scalar_type());
  }
  return result;
}

}  // namespace

namespace two_pass {

Layer Layer::transposed() const {
  return {sizes.transposed(), cores.transposed(), rows};
}

bool supports(
    const ek::BttSizes& sizes, std::int64_t rows, int experts, Pass pass) {
  if (!tp::suits(sizes)) {
    return false;
  }
  const auto has_stages = [&](const ek::BttSizes& of) {
    return find_stages(of, rows, experts) != nullptr;
  };
  if (pass == Pass::kForward) {
    return has_stages(sizes);
  }
  static std::mutex mutex;
  static std::set<Key> compiled;
  bool is_new = false;
  {
    const std::lock_guard lock(mutex);
    is_new = compiled.emplace(sizes, rows, experts).second;
  }
  if (is_new) {
    // Side by side, before one after the other is asked for.
    jit_kernels().get(
        tp::sources_of(sizes, rows, experts, plan_device()),
        jit_architecture());
  }
  return has_stages(sizes) && has_stages(sizes.transposed()) &&
         find_gradients(padded(sizes), rows, experts) != nullptr;
}

Tensor padded_input(const Layer& layer, const Tensor& x) {
  return with_padding(x, layer.sizes.alpha, layer.sizes.gamma);
}

Tensor rows(const Layer& layer, const Tensor& x, Tensor* kept) {
  const Stages& stages = stages_of(layer);
  const auto packed = pack(stages, layer, x, /*both=*/true);
  const Tensor z = first_stage(layer, x, /*gates=*/Tensor(), packed[0]);
  const Tensor y = empty_output(layer, x, layer.rows.pairs);
  run(stages.second,
      {.in = z.const_data_ptr(),
       .out = y.mutable_data_ptr(),
       .out_rows = y.size(0),
       .weights = packed[1].const_data_ptr(),
       .rows = layer.rows});
  if (kept != nullptr) {
    *kept = z;
  }
  return without_padding(y, layer.sizes.epsilon, layer.sizes.phi);
}

Tensor sum(
    const Layer& layer,
    const Tensor& x,
    const Tensor& gates,
    const Tensor& bias) {
  Tensor padded_bias = btt::padded_bias(bias, layer.sizes, padded(layer.sizes));
  if (padded_bias.defined()) {
    padded_bias = btt::aligned(padded_bias);
  }
  const Stages& stages = stages_of(layer);
  const auto packed = pack(stages, layer, x, /*both=*/true);
  const Tensor z = first_stage(layer, x, gates, packed[0]);
  const Tensor y = empty_output(layer, x, x.size(0));
  for (int bin = layer.rows.first; bin < layer.rows.last; ++bin) {
    tp::StageLaunch launch{
        .in = z.const_data_ptr(),
        .out = y.mutable_data_ptr(),
        .out_rows = y.size(0),
        .weights = packed[1].const_data_ptr(),
        .bias = bin == 0 && padded_bias.defined() ? padded_bias.const_data_ptr()
                                                  : nullptr,
        .rows = layer.rows,
        .row_divisor = layer.rows.active,
        .accumulate = bin > 0};
    launch.rows.first = bin;
    launch.rows.last = bin + 1;
    run(stages.second, launch);
  }
  return without_padding(y, layer.sizes.epsilon, layer.sizes.phi);
}

void core_gradients(
    const Layer& layer,
    const Tensor& given_x,
    const Tensor& given_dy,
    const Tensor& gates,
    Tensor dz,
    const Tensor& grad_first,
    const Tensor& grad_second) {
  if (!grad_first.defined() && !grad_second.defined()) {
    return;
  }
  const Gradients& kernels = gradients_of(layer);
  const Tensor x = padded_input(layer, given_x);
  const Tensor dy = padded_input(layer.transposed(), given_dy);
  if (grad_first.defined()) {
    if (!dz.defined()) {
      dz = first_stage(layer.transposed(), dy, /*gates=*/Tensor());
    }
    gradient(kernels.first, layer, x, dz, gates, grad_first, /*first=*/true);
  }
  dz.reset();  // before z is made
  if (grad_second.defined()) {
    const Tensor z = first_stage(layer, x, gates);
    gradient(
        kernels.second,
        layer.transposed(),
        dy,
        z,
        /*gates=*/Tensor(),
        grad_second,
        /*first=*/false);
  }
}

Tensor into_slabs(const Layer& layer, const Tensor& x) {
  return first_stage(layer, x, /*gates=*/Tensor());
}

Tensor out_of_slabs(const Layer& layer, const Tensor& z) {
  const Stages& stages = stages_of(layer);
  const Tensor packed = pack(stages, layer, z, /*both=*/true)[1];
  const Tensor y = empty_output(layer, z, layer.rows.pairs);
  run(stages.second,
      {.in = z.const_data_ptr(),
       .out = y.mutable_data_ptr(),
       .out_rows = y.size(0),
       .weights = packed.const_data_ptr(),
       .rows = layer.rows});
  return without_padding(y, layer.sizes.epsilon, layer.sizes.phi);
}

void first_gradient(
    const Layer& layer, const Tensor& x, const Tensor& dz, const Tensor& grad) {
  gradient(
      gradients_of(layer).first,
      layer,
      x,
      dz,
      /*gates=*/Tensor(),
      grad,
      /*first=*/true);
}

void second_gradient(
    const Layer& layer, const Tensor& z, const Tensor& dy, const Tensor& grad) {
  gradient(
      gradients_of(layer).second,
      layer.transposed(),
      dy,
      z,
      /*gates=*/Tensor(),
      grad,
      /*first=*/false);
}

}  // namespace two_pass

EinsumLinearKernel two_pass_btt_kernel() {
  return {
      .name = "two_pass",
      .supports = supports_layer,
      .forward = forward,
      .backward = backward};
}

}  // namespace einforge::ops
