#pragma once

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/ops/cuda/device.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "tests/ops/testing.h"

// Rows of the CUDA table that are kernels of our own, in bfloat16 against
// float64.
namespace einforge::testing {

// Whether the build has kernels of our own for the GPU.
inline bool have_cuda_kernels() {
  return ops::architecture_supported(torch::empty({1}, torch::kCUDA));
}

inline bool row_supports(
    std::string_view name,
    const structure::Sizes& sizes,
    std::int64_t tokens,
    ops::Pass pass) {
  const auto table = ops::cuda_kernels();
  return std::ranges::find(table, name, &ops::EinsumLinearKernel::name)
      ->supports(
          {.sizes = sizes,
           .tokens = tokens,
           .dtype = torch::kBFloat16,
           .device = torch::kCUDA,
           .pass = pass});
}

// Of both passes.
inline bool row_supports(
    std::string_view name, const structure::Sizes& sizes, std::int64_t tokens) {
  return row_supports(name, sizes, tokens, ops::Pass::kForward) &&
         row_supports(name, sizes, tokens, ops::Pass::kBackward);
}

inline const char* const kResultNames[] = {"y", "dx", "dA", "dB", "dbias"};

inline std::vector<Tensor> run_with(
    const std::string& kernel, const Values& v) {
  const ops::ForcedKernel forced(kernel);
  const Tensor y = ops::einsum_linear(v.x, v.core_a, v.core_b, v.bias);
  const auto [x, a, b, bias] = ops::einsum_linear_backward(
      v.grad, v.x, v.core_a, v.core_b, {true, true, true, true});
  return {y, x, a, b, bias};
}

// Operands of both passes on the GPU, exact in bfloat16, with outputs of
// order 1.
inline Values random_on_gpu(
    base::Random& random, const structure::Sizes& s, std::int64_t n) {
  torch::manual_seed(random.below(1 << 30));
  const auto normal = [](c10::IntArrayRef sizes, std::int64_t terms) {
    return (torch::randn(sizes, torch::kCUDA) /
            std::sqrt(static_cast<double>(terms)))
        .to(torch::kBFloat16);
  };
  return {
      normal({n, s.d_in()}, 1),
      normal({s.alpha, s.gamma, s.delta, s.phi, s.rho}, s.alpha),
      normal(
          {s.beta, s.gamma, s.epsilon, s.phi, s.rho}, s.beta * s.gamma * s.rho),
      normal({s.d_out()}, 1),
      normal({n, s.d_out()}, 1)};
}

// The definition, one core after the other so that no product is larger than
// z, and its gradients by torch's own derivative.
inline Results stepwise_reference(const Values& v, const structure::Sizes& s) {
  const auto leaf = [](const Tensor& t) {
    return t.to(torch::kFloat64).requires_grad_();
  };
  const Tensor x = leaf(v.x);
  const Tensor a = leaf(v.core_a);
  const Tensor b = leaf(v.core_b);
  const Tensor bias = leaf(v.bias);
  const Tensor split = x.reshape({-1, s.alpha, s.beta, s.gamma});
  const Tensor product =
      s.beta == 1 ? torch::einsum(
                        "tbgdfr,bgefr->tdef",
                        {torch::einsum("tabg,agdfr->tbgdfr", {split, a}), b})
                  : torch::einsum(
                        "tagefr,agdfr->tdef",
                        {torch::einsum("tabg,bgefr->tagefr", {split, b}), a});
  const Tensor y = product.reshape({-1, s.d_out()}) + bias;
  const auto grads =
      torch::autograd::grad({y}, {x, a, b, bias}, {v.grad.to(torch::kFloat64)});
  return {y.detach(), grads[0], grads[1], grads[2], grads[3]};
}

// No worse than 1.5 times the error of the two bfloat16 matmuls done one
// after the other.
inline void compare(
    const std::string& kernel,
    const std::string& what,
    const Values& v,
    const structure::Sizes& s) {
  const Poison poison;
  const auto got = run_with(kernel, v);
  const auto plain = run_with("bmm", v);
  const auto exact = stepwise_reference(v, s);
  const Tensor expected[] = {
      exact.y, exact.x, exact.core_a, exact.core_b, exact.bias};
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = relative_error(got[i], expected[i]);
    const double other = relative_error(plain[i], expected[i]);
    EXPECT_LE(error, 1.5 * other + 1e-4)
        << kernel << " " << what << " " << kResultNames[i]
        << ": relative error " << error << ", by matmuls " << other;
    EXPECT_EQ(got[i].sizes(), expected[i].sizes());
  }
}

// Without any other work on the GPU, for compute-sanitizer: the reference is
// the CPU's. A few roundings to bfloat16, each of 2^-9 at the most.
inline void compare_on_cpu(
    const std::string& kernel, const Values& v, const structure::Sizes& s) {
  const auto to_cpu = +[](const Tensor& t) { return t.cpu(); };
  const auto got = run_with(kernel, v);
  const auto exact = stepwise_reference(v.map(to_cpu), s);
  const Tensor expected[] = {
      exact.y, exact.x, exact.core_a, exact.core_b, exact.bias};
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(relative_error(got[i].cpu(), expected[i]), 0x1p-7)
        << kernel << " " << describe(s) << " " << kResultNames[i];
  }
}

// 100 times the same bits.
inline void expect_repeats(const std::string& kernel, const Values& v) {
  const auto first = run_with(kernel, v);
  for (int repeat = 0; repeat < 100; ++repeat) {
    const auto again = run_with(kernel, v);
    for (size_t i = 0; i < first.size(); ++i) {
      ASSERT_TRUE(torch::equal(first[i], again[i]))
          << kernel << " " << kResultNames[i] << " repeat " << repeat;
    }
  }
}

// Operands that start 2 bytes further on, that skip every other element, and
// with cores in the operator's own layout give the same bits.
inline void expect_any_strides(
    const std::string& kernel, const Values& v, const structure::Sizes& s) {
  const auto expected = run_with(kernel, v);
  const auto shifted = +[](const Tensor& t) {
    const Tensor storage =
        torch::empty({t.numel() + 1}, t.options()).slice(0, 1);
    return storage.view(t.sizes()).copy_(t);
  };
  const auto every_other = +[](const Tensor& t) {
    return torch::stack({t, t + 1}, -1).select(-1, 0);
  };
  for (const Values& other :
       {v.map(shifted),
        v.map(every_other),
        Values{
            v.x,
            ops::core_a_layout(v.core_a, s),
            ops::core_b_layout(v.core_b, s),
            v.bias,
            v.grad}}) {
    const auto got = run_with(kernel, other);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(torch::equal(got[i], expected[i]))
          << kernel << " " << kResultNames[i];
    }
  }
}

// On a stream of its own, captured, and replayed with new inputs.
inline void expect_graph_replays(
    const std::string& kernel, const Values& v, const Values& w) {
  const auto expected = run_with(kernel, w);
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  run_with(kernel, v);  // what is measured is measured before
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const auto captured = run_with(kernel, v);
  graph.capture_end();
  v.x.copy_(w.x);
  v.core_a.copy_(w.core_a);
  v.core_b.copy_(w.core_b);
  v.bias.copy_(w.bias);
  v.grad.copy_(w.grad);
  for (int repeat = 0; repeat < 3; ++repeat) {
    graph.replay();
  }
  for (size_t i = 0; i < captured.size(); ++i) {
    EXPECT_TRUE(torch::equal(captured[i], expected[i]))
        << kernel << " " << kResultNames[i];
  }
}

}  // namespace einforge::testing
