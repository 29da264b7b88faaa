#include "einforge/ops/cpu/einsum_linear_tiled.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include "einforge/kernels/cpu/einsum_linear.h"
#include "einforge/ops/contraction.h"

#ifndef INTRA_OP_PARALLEL
#error "without OpenMP at::parallel_for would run on one thread"
#endif

namespace einforge::ops {
namespace {

namespace cpu = kernels::cpu;
using torch::Tensor;

std::int64_t l2_bytes() {
  static const std::int64_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) {
      return static_cast<std::int64_t>(found);
    }
#endif
    return std::int64_t{1} << 20;
  }();
  return bytes;
}

cpu::EinsumShape shape_of(const Contraction& c, std::int64_t tokens) {
  return {
      .tokens = tokens,
      .first_in = c.first_in,
      .second_in = c.second_in,
      .gamma = c.gamma,
      .first_out = c.first_out,
      .second_out = c.second_out,
      .phi = c.phi,
      .rho = c.rho,
      .ab = c.ab()};
}

cpu::EinsumTiling plan(const cpu::EinsumShape& shape, cpu::EinsumPass pass) {
  return cpu::plan_einsum_linear(
      shape, pass, cpu::best_isa(), at::get_num_threads(), l2_bytes());
}

Tensor workspaces(const cpu::EinsumTiling& tiling, const Tensor& like) {
  return like.new_empty({tiling.workers * tiling.workspace});
}

// One call for each worker, on as many threads.
template <typename Work>
void for_each_worker(const cpu::EinsumTiling& tiling, Work work) {
  at::parallel_for(
      0, tiling.workers, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t worker = begin; worker < end; ++worker) {
          work(worker);
        }
      });
}

bool supports(const EinsumLinearProblem& problem) {
  return problem.dtype == torch::kFloat32 ||
         problem.dtype == torch::kBFloat16 || problem.dtype == torch::kFloat16;
}

// Whether nearly all is one product with a matrix, not a batch of them, that is
// read again for each tile of tokens because no cache holds it. BLAS cuts that
// better: 1.3 to 8 times at dense matrices from 512, and is no better below.
bool is_large_matrix(const Contraction& c) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 18;  // elements
  const std::int64_t columns = c.first_out * c.phi * c.rho;
  const std::int64_t depth = c.second_in * c.gamma * c.rho;
  const std::int64_t first = c.second_in * c.gamma * c.first_in * columns;
  const std::int64_t second = c.first_out * c.phi * c.second_out * depth;
  const std::int64_t large =
      (c.gamma == 1 && c.first_in * columns >= kLarge ? first : 0) +
      (c.phi == 1 && depth * c.second_out >= kLarge ? second : 0);
  return 4 * large >= 3 * (first + second);
}

// Measured against "bmm" in float32 at widths 256 and 1024, 1 to 1,024 tokens.
// Low rank is two plain matrix products, at which BLAS is 1.2 to 3 times
// better. Where tokens share a matrix (beta or delta above 1), BLAS is ahead
// below 32 tokens, of which this kernel takes 16 at a time, and 1.5 to 5 times
// behind from there on. The BTT family gains 2 to 30 times at all sizes.
bool preferred(const EinsumLinearProblem& problem) {
  const Contraction c(problem.sizes);
  if (is_large_matrix(c)) {
    return false;
  }
  return c.second_in > 1 || c.first_out > 1 ? problem.tokens >= 32
                                            : c.gamma > 1 || c.phi > 1;
}

Tensor wide(const Tensor& operand) {
  return operand.to(torch::kFloat32);
}

// Two bytes become four on the way in, and are rounded once on the way out.
Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const Tensor wide_x = wide(x);
  const Tensor y = wide_x.new_empty({problem.tokens, problem.sizes.d_out()});
  tiled::forward(
      problem,
      wide_x,
      wide(core_a),
      wide(core_b),
      bias ? std::optional(wide(*bias)) : std::nullopt,
      {},
      y);
  return y.to(problem.dtype);
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Tensor wide_x = wide(x);
  EinsumLinearGradients result = tiled::backward(
      problem,
      wide(grad),
      wide_x,
      wide(core_a),
      wide(core_b),
      mask,
      {},
      mask[0] ? torch::empty_like(wide_x) : Tensor(),
      nullptr);
  for (Tensor* gradient :
       {&result.x, &result.core_a, &result.core_b, &result.bias}) {
    if (gradient->defined()) {
      *gradient = gradient->to(problem.dtype);
    }
  }
  return result;
}

}  // namespace

void tiled::forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias,
    const cpu::EinsumRows& rows,
    const Tensor& y) {
  const Contraction c(problem.sizes);
  const auto [first_core, second_core] = c.ordered(core_a, core_b);
  const Tensor first = c.pack_first(first_core);
  const Tensor second = c.pack_second(second_core);
  const Tensor bias_row = bias ? bias->contiguous() : Tensor();
  cpu::EinsumForward args;
  args.rows = rows;
  args.shape = shape_of(c, problem.tokens);
  args.tiling = plan(args.shape, cpu::EinsumPass::kForward);
  args.x = x.const_data_ptr<float>();
  args.first = first.const_data_ptr<float>();
  args.second = second.const_data_ptr<float>();
  args.bias = bias ? bias_row.const_data_ptr<float>() : nullptr;
  args.y = y.mutable_data_ptr<float>();
  const Tensor workspace = workspaces(args.tiling, x);
  float* memory = workspace.mutable_data_ptr<float>();
  for_each_worker(args.tiling, [&](std::int64_t worker) {
    cpu::einsum_linear_forward(
        args, cpu::best_isa(), worker, memory + worker * args.tiling.workspace);
  });
}

EinsumLinearGradients tiled::backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask,
    const cpu::EinsumRows& rows,
    const Tensor& grad_x,
    float* grad_scale) {
  const Contraction c(problem.sizes);
  const auto [first_core, second_core] = c.ordered(core_a, core_b);
  const Tensor first = c.pack_first(first_core);
  const Tensor second = c.pack_second(second_core);
  Tensor grad_first;
  Tensor grad_second;
  Tensor grad_bias;
  const auto output = [](bool asked, Tensor& tensor, const Tensor& like) {
    if (!asked) {
      return static_cast<float*>(nullptr);
    }
    tensor = torch::empty_like(like);
    return tensor.mutable_data_ptr<float>();
  };
  cpu::EinsumBackward args;
  args.shape = shape_of(c, problem.tokens);
  args.tiling = plan(args.shape, cpu::EinsumPass::kBackward);
  args.rows = rows;
  args.grad = grad.const_data_ptr<float>();
  args.x = x.const_data_ptr<float>();
  args.first = first.const_data_ptr<float>();
  args.second = second.const_data_ptr<float>();
  args.grad_x = mask[0] ? grad_x.mutable_data_ptr<float>() : nullptr;
  args.grad_scale = grad_scale;
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  args.grad_first = output(first_asked, grad_first, first);
  args.grad_second = output(second_asked, grad_second, second);
  args.grad_bias = output(mask[3], grad_bias, grad[0]);
  const Tensor workspace = workspaces(args.tiling, x);
  float* memory = workspace.mutable_data_ptr<float>();
  for_each_worker(args.tiling, [&](std::int64_t worker) {
    cpu::einsum_linear_backward(
        args, cpu::best_isa(), worker, memory + worker * args.tiling.workspace);
  });
  for_each_worker(args.tiling, [&](std::int64_t worker) {
    cpu::einsum_linear_reduce(args, cpu::best_isa(), worker, memory);
  });
  if (grad_first.defined()) {
    grad_first = c.unpack_first(grad_first);
  }
  if (grad_second.defined()) {
    grad_second = c.unpack_second(grad_second);
  }
  const auto [grad_a, grad_b] = c.ordered(grad_first, grad_second);
  return {.x = grad_x, .core_a = grad_a, .core_b = grad_b, .bias = grad_bias};
}

EinsumLinearKernel cpu_tiled_kernel() {
  return {"cpu_tiled", supports, forward, backward, preferred};
}

}  // namespace einforge::ops
