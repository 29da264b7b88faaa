// How a mixture of einsum layers is called: layouts, masks, autocast, CUDA
// graphs, the choice of a kernel and errors.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include "tests/ops/btt_moe_testing.h"

namespace einforge::testing::moe {
namespace {

class BttMoeUse : public BttMoe {};

EINFORGE_ON_DEVICES(BttMoeUse);

TEST_P(BttMoeUse, TakesNoTokens) {
  base::Random random(23);
  const Tensor none = torch::zeros({0, 2}, torch::kInt32);
  const Operands o = random_operands(random, kMonarch, 8, none, torch::kFloat32)
                         .to(GetParam().type, torch::kFloat32);
  const Results got = run(o);
  EXPECT_EQ(got.y.sizes(), (std::vector<std::int64_t>{0, 64}));
  EXPECT_EQ(got.x.sizes(), (std::vector<std::int64_t>{0, 64}));
  EXPECT_EQ(got.gates.sizes(), (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(got.core_a.sizes(), o.core_a.sizes());
  EXPECT_TRUE((got.core_a == 0).all().item<bool>());
  EXPECT_TRUE((got.core_b == 0).all().item<bool>());
}

// Batches, any strides and 64-bit numbers of experts mean the same.
TEST_P(BttMoeUse, TakesAnyLayout) {
  base::Random random(29);
  const Tensor experts = choose(random, Choice::kUniform, 60, 8, 2);
  const Operands o =
      random_operands(random, kMonarch, 8, experts, torch::kFloat32)
          .to(GetParam().type, torch::kFloat32);
  const auto sliced = [](const Tensor& t) {
    return torch::stack({t, t + 1}, -1).select(-1, 0);
  };
  const Operands other{
      sliced(o.x.view({3, 4, 5, 64})),
      ops::expert_core_a_layout(o.core_a, kMonarch),
      sliced(o.core_b),
      sliced(o.experts.to(torch::kInt64)),
      sliced(o.gates),
      sliced(o.grad.view({3, 4, 5, 64}))};
  Results got = run(other);
  EXPECT_EQ(got.core_a.strides(), other.core_a.strides());
  EXPECT_EQ(got.y.sizes(), (std::vector<std::int64_t>{3, 4, 5, 64}));
  EXPECT_EQ(got.x.sizes(), (std::vector<std::int64_t>{3, 4, 5, 64}));
  got.y = got.y.view({60, 64});
  got.x = got.x.view({60, 64});
  expect_equal("layout", got, run(o));
}

TEST_P(BttMoeUse, ComputesTheGradientsThatAreAskedFor) {
  base::Random random(31);
  const Tensor experts = choose(random, Choice::kUniform, 77, 8, 2);
  for (const Sizes& s : {kMonarch, some_sizes()[2], some_sizes()[3]}) {
    for_each_kernel(
        s,
        77,
        8,
        2,
        {torch::kFloat32},
        [&](const std::string& what, torch::ScalarType dtype) {
          const Operands o = random_operands(random, s, 8, experts, dtype)
                                 .to(GetParam().type, dtype);
          const Results all = run(o);
          const Tensor expected[] = {all.x, all.core_a, all.core_b, all.gates};
          for (unsigned bits = 0; bits < 16; ++bits) {
            const auto asked = [&](unsigned i) { return (bits >> i & 1) != 0; };
            const auto [x, a, b, gates] = ops::btt_moe_linear_backward(
                o.grad,
                o.x,
                o.core_a,
                o.core_b,
                o.experts,
                o.gates,
                {asked(0), asked(1), asked(2), asked(3)});
            const Tensor got[] = {x, a, b, gates};
            for (unsigned i = 0; i < 4; ++i) {
              if (!asked(i)) {
                EXPECT_EQ(got[i].numel(), 0) << what;
                continue;
              }
              // A pass that computes less may do it in another order.
              EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-3, 1e-3))
                  << what << " gradient " << i << " of mask " << bits;
            }
          }
        });
  }
}

TEST_P(BttMoeUse, RunsInAutocastsDtypeWithWideGates) {
  base::Random random(37);
  const Tensor experts = choose(random, Choice::kUniform, 50, 8, 2);
  const Operands o =
      random_operands(random, kMonarch, 8, experts, torch::kBFloat16);
  const Operands wide = o.to(GetParam().type, torch::kFloat32);
  const Tensor x = wide.x.clone().requires_grad_();
  const Tensor gates = wide.gates.clone().requires_grad_();
  Tensor y;
  {
    const testing::Autocast autocast(GetParam().type);
    y = ops::btt_moe_linear(x, wide.core_a, wide.core_b, wide.experts, gates);
  }
  const Operands low = o.to(GetParam().type, torch::kBFloat16);
  const Results expected = run(low);
  EXPECT_TRUE(torch::equal(y, expected.y));
  const auto grads = torch::autograd::grad({y}, {x, gates}, {low.grad});
  EXPECT_TRUE(torch::equal(grads[0], expected.x.to(torch::kFloat32)));
  // Of float32 gates and bfloat16 products in both.
  EXPECT_TRUE(torch::equal(grads[1], expected.gates));
}

TEST_P(BttMoeUse, ReplaysInACudaGraphWithAnotherChoice) {
  if (GetParam().type != torch::kCUDA) {
    GTEST_SKIP() << "CUDA only";
  }
  base::Random random(41);
  const Sizes s{32, 1, 32, 1, 32, 32, 1};
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto operands = [&](Choice choice) {
      const Tensor experts = choose(random, choice, 1000, 16, 2);
      return random_operands(random, s, 16, experts, dtype)
          .to(torch::kCUDA, dtype);
    };
    const Operands o = operands(Choice::kUniform);
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    run(o);  // what is measured is measured before
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    const Results captured = run(o);
    graph.capture_end();
    for (const Choice choice :
         {Choice::kZipf, Choice::kOnePopular, Choice::kFirst}) {
      const Operands other = operands(choice);
      o.x.copy_(other.x);
      o.core_a.copy_(other.core_a);
      o.core_b.copy_(other.core_b);
      o.experts.copy_(other.experts);
      o.gates.copy_(other.gates);
      o.grad.copy_(other.grad);
      graph.replay();
      expect_equal("graph", captured, run(other));
    }
  }
}

TEST(BttMoeChoice, IsTheTiledKernelWhereOneExpertWouldTakeIt) {
  const auto chosen = [](const Sizes& sizes, torch::ScalarType dtype) {
    const ops::BttMoeProblem problem{
        .expert = {.sizes = sizes, .tokens = 2048, .dtype = dtype},
        .experts = 16,
        .active = 2};
    for (const auto& kernel : ops::cpu_moe_kernels()) {
      if (kernel.supports(problem) &&
          (kernel.preferred == nullptr || kernel.preferred(problem))) {
        return kernel.name;
      }
    }
    return std::string_view("none");
  };
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    EXPECT_EQ(chosen({32, 1, 32, 1, 32, 32, 1}, dtype), "cpu_tiled");
  }
  EXPECT_EQ(chosen({32, 1, 32, 1, 32, 32, 1}, torch::kFloat64), "per_expert");
  EXPECT_EQ(chosen({1024, 1, 1, 1, 1024, 1, 8}, torch::kFloat32), "per_expert");
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(BttMoeErrors, SayWhatWasExpectedAndWhatCame) {
  const Tensor x = torch::zeros({5, 6});
  const Tensor a = torch::zeros({8, 3, 2, 1, 2, 1});
  const Tensor b = torch::zeros({8, 1, 2, 4, 2, 1});
  const Tensor experts = torch::arange(2, torch::kInt32).repeat({5, 1});
  const Tensor gates = torch::zeros({5, 2});
  const auto error = [](const Tensor& x_,
                        const Tensor& a_,
                        const Tensor& b_,
                        const Tensor& experts_,
                        const Tensor& gates_) {
    return error_of([&] { ops::btt_moe_linear(x_, a_, b_, experts_, gates_); });
  };
  EXPECT_EQ(error(x, a, b, experts + 6, gates), "no error");
  EXPECT_EQ(
      error(torch::zeros({5, 7}), a, b, experts, gates),
      "[btt_moe_linear] expected x of size (..., 6); got (5, 7)");
  EXPECT_EQ(
      error(x, a.select(0, 0), b, experts, gates),
      "[btt_moe_linear] expected cores of six dimensions (experts, in, gamma, "
      "out, phi, rho) and equally many experts; got core_a of size (3, 2, 1, "
      "2, 1) and core_b of size (8, 1, 2, 4, 2, 1)");
  EXPECT_EQ(
      error(x, a, b.to(torch::kFloat64), experts, gates),
      "[btt_moe_linear] expected core_b Float on cpu; got Double on cpu");
  EXPECT_EQ(
      error(x, a, b, experts.slice(0, 1), gates),
      "[btt_moe_linear] expected experts of size (5, 1 to 8); got (4, 2)");
  EXPECT_EQ(
      error(x, a, b, experts.to(torch::kFloat32), gates),
      "[btt_moe_linear] expected experts int32 or int64; got Float");
  EXPECT_EQ(
      error(x, a, b, experts, gates.slice(1, 1)),
      "[btt_moe_linear] expected gates of the size of experts, (5, 2); got (5, "
      "1)");
  EXPECT_EQ(
      error(x, a, b, experts, gates.to(torch::kBFloat16)),
      "[btt_moe_linear] expected gates Float on cpu; got BFloat16 on cpu");
  EXPECT_EQ(
      error(x, a, b, experts + 7, gates),
      "[moe_dispatch] expected experts in [0, 8); got 8");
  EXPECT_EQ(
      error(x, a, b, torch::full_like(experts, 3), gates),
      "[btt_moe_linear] expected each token's experts to be distinct; got "
      "expert 3 twice for token 0");
}

}  // namespace
}  // namespace einforge::testing::moe
