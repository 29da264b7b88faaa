#pragma once

#include <vector>

#include "einforge/ops/kernel_table.h"
#include "tests/ops/testing.h"

// A row of the table that is a plan of matmuls, called by itself, so that the
// CPU can check what CUDA chooses.
namespace einforge::testing {

constexpr ops::GradientMask kAllGradients{true, true, true, true};

// y and the gradients of x, both cores and the bias; undefined where not asked
// for.
inline std::vector<Tensor> run_plan(
    const ops::EinsumLinearKernel& kernel,
    const structure::Sizes& sizes,
    const Values& v,
    const ops::GradientMask& mask = kAllGradients) {
  ops::EinsumLinearProblem problem{
      .sizes = sizes,
      .tokens = v.x.size(0),
      .dtype = v.x.scalar_type(),
      .device = v.x.device().type()};
  const Tensor y = kernel.forward(problem, v.x, v.core_a, v.core_b, v.bias);
  problem.pass = ops::Pass::kBackward;
  const auto grads =
      kernel.backward(problem, v.grad, v.x, v.core_a, v.core_b, mask);
  return {y, grads.x, grads.core_a, grads.core_b, grads.bias};
}

inline constexpr const char* kPlanResults[] = {
    "y", "x", "core_a", "core_b", "bias"};

inline std::vector<Tensor> listed(const Results& r) {
  return {r.y, r.x, r.core_a, r.core_b, r.bias};
}

// Against the definition, in three dtypes.
inline void check_plan(
    const ops::EinsumLinearKernel& kernel,
    base::Random& random,
    const structure::Sizes& s,
    std::int64_t tokens,
    torch::Device device = torch::kCPU) {
  for (const auto dtype :
       {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
    const Values exact = random_values(random, s, {tokens}, dtype);
    const Poison poison;
    const auto actual = run_plan(kernel, s, exact.to(device, dtype));
    const auto expected = listed(reference(exact, s));
    const auto magnitude = listed(
        reference(exact.map(+[](const Tensor& t) { return t.abs(); }), s));
    for (size_t i = 0; i < actual.size(); ++i) {
      expect_close(
          fmt::format(
              "{} {} tokens {} {}",
              kernel.name,
              describe(s),
              tokens,
              kPlanResults[i]),
          actual[i],
          expected[i],
          magnitude[i],
          dtype,
          tokens * s.d_in());
    }
  }
}

// Computes only the gradients asked for.
inline void check_mask(
    const ops::EinsumLinearKernel& kernel,
    base::Random& random,
    const structure::Sizes& s) {
  const Values v = random_values(random, s, {7}, torch::kFloat64);
  const auto all = run_plan(kernel, s, v);
  for (size_t which = 0; which < 4; ++which) {
    ops::GradientMask mask{};
    mask[which] = true;
    const auto some = run_plan(kernel, s, v, mask);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(some[i + 1].defined(), i == which);
    }
    EXPECT_TRUE(torch::allclose(some[which + 1], all[which + 1]));
  }
}

// Takes cores of any strides.
inline void check_strides(
    const ops::EinsumLinearKernel& kernel,
    base::Random& random,
    const structure::Sizes& s) {
  Values v = random_values(random, s, {7}, torch::kFloat64);
  const auto expected = run_plan(kernel, s, v);
  v.core_a = torch::stack({v.core_a, v.core_a + 1}, -1).select(-1, 0);
  v.core_b =
      v.core_b.permute({4, 2, 0, 1, 3}).contiguous().permute({2, 3, 1, 4, 0});
  const auto actual = run_plan(kernel, s, v);
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(torch::allclose(actual[i], expected[i])) << kPlanResults[i];
  }
}

}  // namespace einforge::testing
