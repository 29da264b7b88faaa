#include "einforge/ops/cuda/ffn.h"

#include <ATen/autocast_mode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/fused_ffn.h"
#include "einforge/kernels/cuda/fused_ffn/plan.h"
#include "einforge/ops/btt_sizes.h"
#include "einforge/ops/cuda/btt_operands.h"
#include "einforge/ops/cuda/btt_tuner.h"
#include "einforge/ops/cuda/btt_two_pass.h"
#include "einforge/ops/cuda/device.h"
#include "einforge/ops/cuda/jit_kernels.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/gelu.h"
#include "einforge/ops/kernel_choice.h"
#include "einforge/ops/optional_tensor.h"
#include "einforge/ops/sum_of_rows.h"

namespace einforge::ops::fused {
namespace {

namespace ek = kernels::cuda;
namespace ff = kernels::cuda::fused_ffn;
namespace tp = kernels::cuda::two_pass;
using torch::Tensor;
using torch::autograd::variable_list;

// Fewer tokens are a matter of launches, and of matrices merged beforehand.
constexpr std::int64_t kLeastTokens = 2048;
// Rows of slabs count in 32 bits.
constexpr std::int64_t kMostTokens = 1 << 24;

template <typename Shape>
struct Kernel {
  Shape shape;
  tp::LoadedKernel loaded;
};

using Key = std::array<int, 11>;

Key key_of(const ff::FfnSizes& s) {
  int device = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  return {
      s.in.alpha,
      s.in.gamma,
      s.in.epsilon,
      s.in.phi,
      s.in.rho,
      s.out.alpha,
      s.out.gamma,
      s.out.epsilon,
      s.out.phi,
      s.out.rho,
      device};
}

// The kernel of these sizes, compiled when it is first asked for; null where
// there is none.
template <typename Shape>
const Kernel<Shape>* find_kernel(
    const ff::FfnSizes& sizes,
    std::optional<Shape> (*plan)(const ff::FfnSizes&, const tp::Device&)) {
  static std::mutex mutex;
  static std::map<Key, std::optional<Kernel<Shape>>> known;
  const std::lock_guard lock(mutex);
  const auto [found, added] = known.try_emplace(key_of(sizes));
  if (added) {
    if (const auto shape = plan(sizes, plan_device())) {
      const auto cubin =
          jit_kernels().get({ff::source_of(*shape)}, jit_architecture())[0];
      if (cubin) {
        Kernel<Shape> kernel{*shape, {}};
        C10_CUDA_CHECK(tp::load(*cubin, &kernel.loaded));
        found->second = kernel;
      }
    }
  }
  return found->second ? &*found->second : nullptr;
}

const Kernel<ff::FfnShape>* forward_kernel(const ff::FfnSizes& sizes) {
  return find_kernel<ff::FfnShape>(sizes, ff::forward_shape);
}
const Kernel<ff::MiddleShape>* middle_kernel(const ff::FfnSizes& sizes) {
  return find_kernel<ff::MiddleShape>(sizes, ff::middle_shape);
}

// The definition.
Tensor composed(const Tensor& x, const FfnLayer& in, const FfnLayer& out) {
  const Tensor hidden =
      einsum_linear(x, in.core_a, in.core_b, optional(in.bias));
  return einsum_linear(
      ops::gelu(hidden), out.core_a, out.core_b, optional(out.bias));
}

// One layer and its cores in the order of their contraction.
struct Layer {
  Contraction c;
  Tensor first;
  Tensor second;

  explicit Layer(const FfnLayer& layer)
      : c(core_sizes(layer.core_a, layer.core_b)) {
    std::tie(first, second) = c.ordered(layer.core_a, layer.core_b);
  }
  two_pass::Layer in_two_passes(std::int64_t tokens) const {
    two_pass::Layer layer{
        .sizes = btt::sizes_of(c), .cores = btt::cores_of(first, second)};
    layer.rows.pairs = static_cast<int>(tokens);
    return layer;
  }
};

ff::FfnSizes sizes_of(const Layer& in, const Layer& out) {
  return {btt::sizes_of(in.c), btt::sizes_of(out.c)};
}

const __nv_bfloat16* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? btt::data(tensor) : nullptr;
}

template <typename Shape>
Tensor pack(
    const Shape& shape,
    const Layer& in,
    const Layer& out,
    const Tensor& bias,
    const Tensor& like) {
  const Tensor packed = btt::workspace(like, ff::packed_bytes(shape));
  C10_CUDA_CHECK(ff::pack(
      shape,
      btt::cores_of(in.first, in.second),
      btt::cores_of(out.first, out.second),
      data_or_null(bias),
      packed.mutable_data_ptr(),
      c10::cuda::getCurrentCUDAStream()));
  return packed;
}

// @param x (tokens, d_in)
Tensor run_forward(const Tensor& x, const FfnLayer& in, const FfnLayer& out) {
  const Layer first(in);
  const Layer second(out);
  const Kernel<ff::FfnShape>* kernel = forward_kernel(sizes_of(first, second));
  TORCH_CHECK(kernel != nullptr, "[ffn] expected sizes with a kernel");
  const Tensor from = btt::dense(x);
  const Tensor bias = btt::dense(out.bias);
  const Tensor packed =
      pack(kernel->shape, first, second, btt::dense(in.bias), from);
  const Tensor y = torch::empty({x.size(0), second.c.d_out()}, from.options());
  C10_CUDA_CHECK(ff::launch(
      kernel->loaded,
      kernel->shape,
      {.x = static_cast<const std::uint16_t*>(from.const_data_ptr()),
       .y = static_cast<std::uint16_t*>(y.mutable_data_ptr()),
       .packed = packed.const_data_ptr(),
       .bias2 = bias.defined()
                    ? static_cast<const std::uint16_t*>(bias.const_data_ptr())
                    : nullptr,
       .tokens = x.size(0)},
      device_limits(),
      c10::cuda::getCurrentCUDAStream()));
  return y;
}

struct Gradients {
  Tensor x;
  FfnLayer in;
  FfnLayer out;
};

// @param x (tokens, d_in)
// @param grad (tokens, d_out)
Gradients run_backward(
    const Tensor& grad,
    const Tensor& x,
    const FfnLayer& in,
    const FfnLayer& out,
    bool x_asked) {
  const Layer first(in);
  const Layer second(out);
  const Kernel<ff::MiddleShape>* kernel =
      middle_kernel(sizes_of(first, second));
  TORCH_CHECK(kernel != nullptr, "[ffn] expected sizes with a kernel");
  const ff::MiddleShape& s = kernel->shape;
  const std::int64_t tokens = x.size(0);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const two_pass::Layer in_layer = first.in_two_passes(tokens);
  const two_pass::Layer out_layer = second.in_two_passes(tokens);
  const Tensor from = btt::dense(x);
  const Tensor dy = btt::dense(grad);
  Tensor z1 = two_pass::into_slabs(in_layer, from);
  Tensor dz2 = two_pass::into_slabs(out_layer.transposed(), dy);
  const Tensor dz1 =
      torch::empty({s.middle / 8, tokens, s.gamma, 8}, x.options());
  const Tensor z2 = torch::empty({s.middle / 8, tokens, s.phi, 8}, x.options());
  const int splits = ff::splits_of(s, tokens, device_limits());
  const auto sums = [&](std::int64_t width) {
    return torch::empty(
        {splits, s.middle, s.hidden, width},
        x.options().dtype(torch::kFloat32));
  };
  const Tensor db1 = sums(s.gamma);
  const Tensor da2 = sums(s.phi);
  const Tensor dbias1 = sums(1);
  const Tensor packed = pack(s, first, second, btt::dense(in.bias), from);
  C10_CUDA_CHECK(ff::launch(
      kernel->loaded,
      s,
      {.z1 = z1.const_data_ptr(),
       .dz2 = dz2.const_data_ptr(),
       .dz1 = dz1.mutable_data_ptr(),
       .z2 = z2.mutable_data_ptr(),
       .packed = packed.const_data_ptr(),
       .db1 = db1.mutable_data_ptr<float>(),
       .da2 = da2.mutable_data_ptr<float>(),
       .dbias1 = dbias1.mutable_data_ptr<float>(),
       .tokens = static_cast<std::int32_t>(tokens),
       .splits = splits},
      stream));
  z1.reset();
  dz2.reset();
  const Tensor grad_a1 = torch::empty_like(first.first);
  const Tensor grad_b1 = torch::empty_like(first.second);
  const Tensor grad_a2 = torch::empty_like(second.first);
  const Tensor grad_b2 = torch::empty_like(second.second);
  ek::BttPartials partials;
  partials.splits = splits;
  const auto part = [&](const Tensor& all, int width, const Tensor& to) {
    ek::BttPartials::Core core;
    core.sizes.batch = s.middle;
    core.sizes.rows = s.hidden;
    core.sizes.columns = width;
    core.sums = all.const_data_ptr<float>();
    core.grad = btt::mutable_data(to);
    return core;
  };
  partials.cores[0] = part(db1, s.gamma, grad_b1);
  partials.cores[0].strides =
      btt::strides_of(grad_b1, /*first=*/false).exchanged();
  partials.cores[1] = part(da2, s.phi, grad_a2);
  partials.cores[1].strides = btt::strides_of(grad_a2, /*first=*/true);
  C10_CUDA_CHECK(ek::btt_sum_partials(partials, device_limits(), stream));
  Gradients result;
  if (in.bias.defined()) {
    result.in.bias = torch::empty(in.bias.sizes(), in.bias.options());
    C10_CUDA_CHECK(ff::sum_bias_gradient(
        s,
        dbias1.const_data_ptr<float>(),
        splits,
        btt::mutable_data(result.in.bias),
        stream));
  }
  if (out.bias.defined()) {
    result.out.bias = sum_of_rows(dy, dy.scalar_type());
  }
  two_pass::second_gradient(out_layer, z2, dy, grad_b2);
  two_pass::first_gradient(in_layer, from, dz1, grad_a1);
  if (x_asked) {
    result.x = two_pass::out_of_slabs(in_layer.transposed(), dz1);
  }
  std::tie(result.in.core_a, result.in.core_b) =
      first.c.ordered(grad_a1, grad_b1);
  std::tie(result.out.core_a, result.out.core_b) =
      second.c.ordered(grad_a2, grad_b2);
  return result;
}

FfnLayer layer_of(const variable_list& saved, std::size_t from) {
  return {saved[from], saved[from + 1], saved[from + 2]};
}

// Saves x, the cores and the biases.
class FusedFfn : public torch::autograd::Function<FusedFfn> {
 public:
  static Tensor forward(
      torch::autograd::AutogradContext* context,
      const Tensor& x,
      const Tensor& in_a,
      const Tensor& in_b,
      const std::optional<Tensor>& in_bias,
      const Tensor& out_a,
      const Tensor& out_b,
      const std::optional<Tensor>& out_bias) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const c10::cuda::CUDAGuard device(x.device());
    const FfnLayer in{in_a, in_b, in_bias.value_or(Tensor())};
    const FfnLayer out{out_a, out_b, out_bias.value_or(Tensor())};
    context->save_for_backward(
        {x, in_a, in_b, in.bias, out_a, out_b, out.bias});
    const Tensor y = run_forward(x.reshape({-1, x.size(-1)}), in, out);
    std::vector<std::int64_t> sizes = x.sizes().vec();
    sizes.back() = y.size(-1);
    return y.view(sizes);
  }

  static variable_list backward(
      torch::autograd::AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    if (!grads[0].defined()) {
      return variable_list(7);
    }
    if (torch::GradMode::is_enabled()) {
      return differentiable(saved, grads[0]);
    }
    const Tensor& x = saved[0];
    const c10::cuda::CUDAGuard device(x.device());
    const Gradients found = run_backward(
        grads[0].reshape({-1, grads[0].size(-1)}),
        x.reshape({-1, x.size(-1)}),
        layer_of(saved, 1),
        layer_of(saved, 4),
        context->needs_input_grad(0));
    return {
        found.x.defined() ? found.x.view(x.sizes()) : Tensor(),
        found.in.core_a,
        found.in.core_b,
        found.in.bias,
        found.out.core_a,
        found.out.core_b,
        found.out.bias};
  }

 private:
  static bool wants_gradient(const Tensor& tensor) {
    return tensor.defined() && tensor.requires_grad();
  }

  static variable_list differentiable(
      const variable_list& saved, const Tensor& grad) {
    // Of views: asked for the inputs themselves, the engine would come back
    // here.
    variable_list views;
    variable_list asked;
    for (const Tensor& tensor : saved) {
      views.push_back(tensor.defined() ? tensor.view_as(tensor) : tensor);
      if (wants_gradient(views.back())) {
        asked.push_back(views.back());
      }
    }
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const variable_list found = torch::autograd::grad(
        {composed(views[0], layer_of(views, 1), layer_of(views, 4))},
        asked,
        {grad},
        /*retain_graph=*/true,
        /*create_graph=*/true,
        /*allow_unused=*/true);
    variable_list result(7);
    std::size_t next = 0;
    for (std::size_t i = 0; i < views.size(); ++i) {
      if (wants_gradient(views[i])) {
        result[i] = found[next++];
      }
    }
    return result;
  }
};

// What is measured: a pass, or with gradients both.
struct Example {
  Tensor x;
  Tensor grad;
  FfnLayer in;
  FfnLayer out;

  Example(std::int64_t tokens, const FfnProblem& problem, bool with_gradients)
      : in(layer(problem.in, problem.in_bias)),
        out(layer(problem.out, problem.out_bias)) {
    x = random_values({tokens, problem.in.d_in()}, torch::kBFloat16);
    if (with_gradients) {
      grad = random_values({tokens, problem.out.d_out()}, torch::kBFloat16);
      for (const Tensor& leaf : leaves()) {
        leaf.requires_grad_();
      }
    }
  }

  static FfnLayer layer(const structure::Sizes& s, bool bias) {
    constexpr auto kDtype = torch::kBFloat16;
    return {
        core_a_layout(
            random_values({s.alpha, s.gamma, s.delta, s.phi, s.rho}, kDtype),
            s),
        core_b_layout(
            random_values({s.beta, s.gamma, s.epsilon, s.phi, s.rho}, kDtype),
            s),
        bias ? random_values({s.d_out()}, kDtype) : Tensor()};
  }

  variable_list leaves() const {
    variable_list all{x, in.core_a, in.core_b, out.core_a, out.core_b};
    for (const Tensor& bias : {in.bias, out.bias}) {
      if (bias.defined()) {
        all.push_back(bias);
      }
    }
    return all;
  }

  template <typename Way>
  void run(const Way& way) const {
    const c10::impl::ExcludeDispatchKeyGuard guard(
        c10::autocast_dispatch_keyset);
    const torch::AutoGradMode mode(grad.defined());
    const Tensor y = way(x, in, out);
    if (grad.defined()) {
      torch::autograd::grad({y}, leaves(), {grad});
    }
  }
};

}  // namespace

bool takes_ffn(const Tensor& x, const FfnProblem& problem) {
  const bool autocast =
      at::autocast::is_autocast_enabled(torch::kCUDA) &&
      at::autocast::get_autocast_dtype(torch::kCUDA) == torch::kBFloat16;
  if (!x.is_cuda() || x.numel() == 0 || !x.is_floating_point() ||
      !(autocast || x.scalar_type() == torch::kBFloat16)) {
    return false;
  }
  const c10::cuda::CUDAGuard device(x.device());
  const Contraction in(problem.in);
  const Contraction out(problem.out);
  const std::int64_t tokens = x.numel() / x.size(-1);
  if (!is_hopper() || x.size(-1) != in.d_in() || !btt::is_btt(in) ||
      !btt::is_btt(out) || tokens > kMostTokens) {
    return false;
  }
  const ff::FfnSizes sizes{btt::sizes_of(in), btt::sizes_of(out)};
  const auto both_ways = [&](const ek::BttSizes& layer) {
    return two_pass::supports(layer, tokens, /*experts=*/1, Pass::kBackward);
  };
  return forward_kernel(sizes) != nullptr &&
         (!torch::GradMode::is_enabled() ||
          (middle_kernel(sizes) != nullptr && both_ways(sizes.in) &&
           both_ways(sizes.out)));
}

bool ffn_is_fastest(const Tensor& x, const FfnProblem& problem) {
  const std::int64_t tokens = x.numel() / x.size(-1);
  if (tokens < kLeastTokens) {
    return false;
  }
  const c10::cuda::CUDAGuard device(x.device());
  const bool gradients = torch::GradMode::is_enabled();
  const Key sizes = key_of(
      {btt::sizes_of(Contraction(problem.in)),
       btt::sizes_of(Contraction(problem.out))});
  const std::int64_t bucket = token_bucket(tokens);
  const auto key = std::make_tuple(
      sizes, bucket, gradients, problem.in_bias, problem.out_bias);
  static std::mutex mutex;
  static std::map<std::decay_t<decltype(key)>, bool> known;
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(key); found != known.end()) {
      return found->second;
    }
  }
  const std::string text = fmt::format(
      "ffn {},{}|{},{}|{},{} x {}{}{}{}",
      sizes[0],
      sizes[1],
      sizes[2],
      sizes[3],
      sizes[7],
      sizes[8],
      bucket,
      problem.in_bias ? ", bias in" : "",
      problem.out_bias ? ", bias out" : "",
      gradients ? ", both passes" : "");
  const auto name = fastest_of(text, [&] {
    const auto example = std::make_shared<Example>(bucket, problem, gradients);
    return std::vector<Candidate>{
        {"fused", [example] { example->run(fused::ffn); }},
        {"layers", [example] { example->run(composed); }}};
  });
  if (!name) {
    return true;  // perhaps measured next time
  }
  const std::lock_guard lock(mutex);
  return known.try_emplace(key, *name == "fused").first->second;
}

Tensor ffn(const Tensor& x, const FfnLayer& in, const FfnLayer& out) {
  internal::note_choice(
      "fused_ffn", [] { return std::string("a feed-forward network"); });
  for (const Tensor& tensor :
       {in.core_a, in.core_b, in.bias, out.core_a, out.core_b, out.bias}) {
    TORCH_CHECK(
        !tensor.defined() || (tensor.scalar_type() == x.scalar_type() &&
                              tensor.device() == x.device()),
        "[ffn] expected all tensors in the dtype and on the device of x, ",
        x.scalar_type(),
        " on ",
        x.device());
  }
  return FusedFfn::apply(
      x,
      in.core_a,
      in.core_b,
      optional(in.bias),
      out.core_a,
      out.core_b,
      optional(out.bias));
}

}  // namespace einforge::ops::fused
