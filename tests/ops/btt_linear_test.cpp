// The fused CUDA kernels of the block-tensor-train family.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using ops::ForcedKernel;
using structure::Sizes;
using testing::Tensor;
using testing::Values;

const ops::EinsumLinearKernel* fused() {
  for (const auto& kernel : ops::cuda_kernels()) {
    if (kernel.name == "fused") {
      return &kernel;
    }
  }
  return nullptr;
}

bool supports(const Sizes& sizes, std::int64_t tokens) {
  ops::EinsumLinearProblem problem{
      .sizes = sizes,
      .tokens = tokens,
      .dtype = torch::kBFloat16,
      .device = torch::kCUDA};
  const bool forward = fused()->supports(problem);
  problem.pass = ops::Pass::kBackward;
  return forward && fused()->supports(problem);
}

class FusedBtt : public ::testing::Test {
 protected:
  void SetUp() override {
    EINFORGE_NEEDS(torch::kCUDA);
    if (fused() == nullptr) {
      GTEST_SKIP() << "built without CUDA kernels";
    }
  }
};

std::vector<Tensor> run(const Values& v) {
  const Tensor y = ops::einsum_linear(v.x, v.core_a, v.core_b, v.bias);
  const auto [x, a, b, bias] = ops::einsum_linear_backward(
      v.grad, v.x, v.core_a, v.core_b, {true, true, true, true});
  return {y, x, a, b, bias};
}

std::vector<Tensor> run_with(const std::string& kernel, const Values& v) {
  const ForcedKernel forced(kernel);
  return run(v);
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  return ((actual.to(torch::kFloat64) - expected).norm() / expected.norm())
      .item<double>();
}

// Operands of both passes on the GPU, exact in bfloat16, with outputs of
// order 1.
Values random_on_gpu(base::Random& random, const Sizes& s, std::int64_t n) {
  torch::manual_seed(random.below(1 << 30));
  const auto normal = [](c10::IntArrayRef sizes, std::int64_t terms) {
    return (torch::randn(sizes, torch::kCUDA) /
            std::sqrt(static_cast<double>(terms)))
        .to(torch::kBFloat16);
  };
  return {
      normal({n, s.d_in()}, 1),
      normal({s.alpha, s.gamma, s.delta, s.phi, s.rho}, s.alpha * s.beta),
      normal({s.beta, s.gamma, s.epsilon, s.phi, s.rho}, s.gamma * s.rho),
      normal({s.d_out()}, 1),
      normal({n, s.d_out()}, 1)};
}

// The definition, one core after the other so that no product is larger than
// z, and its gradients by torch's own derivative.
testing::Results stepwise_reference(const Values& v, const Sizes& s) {
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

const char* const kNames[] = {"y", "dx", "dA", "dB", "dbias"};

// No worse than 1.5 times the error of the two bfloat16 matmuls done one
// after the other.
void compare(const std::string& what, const Values& v, const Sizes& s) {
  const testing::Poison poison;
  const auto got = run_with("fused", v);
  const auto plain = run_with("bmm", v);
  const auto exact = stepwise_reference(v, s);
  const Tensor expected[] = {
      exact.y, exact.x, exact.core_a, exact.core_b, exact.bias};
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = relative_error(got[i], expected[i]);
    const double other = relative_error(plain[i], expected[i]);
    EXPECT_LE(error, 1.5 * other + 1e-4)
        << what << " " << kNames[i] << ": relative error " << error
        << ", by matmuls " << other;
    EXPECT_EQ(got[i].sizes(), expected[i].sizes());
  }
}

Sizes random_sizes(base::Random& random) {
  const auto size = [&] {
    static const std::int64_t sizes[] = {16, 32, 32, 32, 48, 64, 64, 128};
    return sizes[random.below(std::size(sizes))];
  };
  Sizes s{
      .alpha = size(),
      .gamma = size(),
      .epsilon = size(),
      .phi = size(),
      .rho = static_cast<std::int64_t>(1 + random.below(4))};
  if (random.below(8) == 0) {  // the same layer with its cores exchanged
    std::swap(s.alpha, s.beta);
    std::swap(s.epsilon, s.delta);
  }
  return s;
}

TEST_F(FusedBtt, AgreesWithFloat64AtRandomPoints) {
  base::Random random(31);
  int points = 0;
  for (int tried = 0; tried < 3000 && points < 500 && !HasFailure(); ++tried) {
    const Sizes s = random_sizes(random);
    const std::int64_t tokens = 1 + random.below(random.below(2) ? 40 : 400);
    if (s.d_in() > 4096 || s.d_out() > 4096 || !supports(s, tokens)) {
      continue;
    }
    ++points;
    compare(
        fmt::format("{} tokens {}", testing::describe(s), tokens),
        random_on_gpu(random, s, tokens),
        s);
  }
  EXPECT_GE(points, 500);
}

TEST_F(FusedBtt, AgreesWithFloat64AtTheSizesOfTransformers) {
  base::Random random(37);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 32, 32, 1},
        Sizes{64, 1, 32, 1, 64, 32, 1},
        Sizes{64, 1, 64, 1, 64, 64, 1},
        Sizes{32, 1, 32, 1, 64, 64, 1},
        Sizes{64, 1, 64, 1, 32, 32, 1},
        Sizes{32, 1, 32, 1, 32, 32, 4},
        Sizes{32, 1, 64, 1, 64, 32, 3},
        Sizes{64, 1, 64, 1, 64, 64, 4}}) {
    ASSERT_TRUE(supports(s, 4100)) << testing::describe(s);
    compare(testing::describe(s), random_on_gpu(random, s, 4100), s);
  }
}

// For compute-sanitizer: few tokens, each variant of the tiles.
TEST_F(FusedBtt, SmallShapesOfEveryVariant) {
  base::Random random(41);
  for (const Sizes& s :
       {Sizes{16, 1, 16, 1, 16, 16, 1},
        Sizes{16, 1, 64, 1, 16, 64, 1},
        Sizes{64, 1, 16, 1, 64, 16, 2},
        Sizes{32, 1, 32, 1, 32, 32, 1},
        Sizes{32, 1, 16, 1, 48, 16, 3},
        // The fused backward kernel's: 64 x 32, both ways, and 64 x 64.
        Sizes{64, 1, 16, 1, 32, 32, 1},
        Sizes{32, 1, 32, 1, 64, 16, 2},
        Sizes{64, 1, 16, 1, 64, 32, 1}}) {
    for (const std::int64_t tokens : {1, 67}) {
      const Values v = random_on_gpu(random, s, tokens);
      for (const Tensor& result : run_with("fused", v)) {
        EXPECT_TRUE(result.isfinite().all().item<bool>());
      }
    }
  }
}

TEST_F(FusedBtt, RepeatsItselfBitForBit) {
  base::Random random(43);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 32, 32, 1}, Sizes{64, 1, 64, 1, 64, 64, 2}}) {
    const Values v = random_on_gpu(random, s, 3001);
    const auto first = run_with("fused", v);
    for (int repeat = 0; repeat < 100; ++repeat) {
      const auto again = run_with("fused", v);
      for (size_t i = 0; i < first.size(); ++i) {
        ASSERT_TRUE(torch::equal(first[i], again[i]))
            << kNames[i] << " repeat " << repeat;
      }
    }
  }
}

TEST_F(FusedBtt, NanAndInfinityPropagate) {
  base::Random random(47);
  const Sizes s{32, 1, 32, 1, 32, 32, 1};
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(),
        std::numeric_limits<float>::infinity()}) {
    Values v = random_on_gpu(random, s, 300);
    v.x[70][5] = value;
    v.grad[211][9] = value;
    const auto got = run_with("fused", v);
    EXPECT_FALSE(got[0][70].isfinite().any().item<bool>());
    EXPECT_TRUE(got[0][71].isfinite().all().item<bool>());
    EXPECT_FALSE(got[1][211].isfinite().any().item<bool>());
    EXPECT_TRUE(got[1][212].isfinite().all().item<bool>());
    // x[70] reaches every gradient of a weight that it was multiplied with:
    // alpha, gamma = 0, 5 of A; z[70] of gamma 5 for B.
    EXPECT_FALSE(
        got[2].select(0, 0).select(0, 5).isfinite().any().item<bool>());
    EXPECT_FALSE(got[3].select(1, 5).isfinite().any().item<bool>());
    // grad[211] (epsilon, phi = 0, 9) reaches dz of phi 9 and so all of A.
    EXPECT_FALSE(got[2].select(3, 9).isfinite().any().item<bool>());
  }
}

TEST_F(FusedBtt, TakesAnyStridesAndAlignments) {
  base::Random random(53);
  const Sizes s{32, 1, 16, 1, 16, 32, 2};
  const Values v = random_on_gpu(random, s, 77);
  const auto expected = run_with("fused", v);
  const auto shifted = [](const Tensor& t) {  // starts 2 bytes further on
    const Tensor storage =
        torch::empty({t.numel() + 1}, t.options()).slice(0, 1);
    return storage.view(t.sizes()).copy_(t);
  };
  const auto every_other = [](const Tensor& t) {
    return torch::stack({t, t + 1}, -1).select(-1, 0);
  };
  for (const Values& other :
       {v.map(+[](const Tensor& t) { return t; }),
        Values{
            shifted(v.x),
            shifted(v.core_a),
            shifted(v.core_b),
            shifted(v.bias),
            shifted(v.grad)},
        Values{
            every_other(v.x),
            every_other(v.core_a),
            every_other(v.core_b),
            every_other(v.bias),
            every_other(v.grad)},
        Values{
            v.x,
            ops::core_a_layout(v.core_a, s),
            ops::core_b_layout(v.core_b, s),
            v.bias,
            v.grad}}) {
    const auto got = run_with("fused", other);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(torch::equal(got[i], expected[i])) << kNames[i];
    }
  }
}

// On a stream of its own, captured, and replayed with new inputs.
TEST_F(FusedBtt, CanBeCapturedInAGraph) {
  base::Random random(59);
  const Sizes s{32, 1, 32, 1, 64, 32, 1};
  const Values v = random_on_gpu(random, s, 500);
  const Values w = random_on_gpu(random, s, 500);
  const auto expected = run_with("fused", w);
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  run_with("fused", v);  // what is measured is measured before
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const auto captured = run_with("fused", v);
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
    EXPECT_TRUE(torch::equal(captured[i], expected[i])) << kNames[i];
  }
}

TEST_F(FusedBtt, LeavesOtherShapesToMatmuls) {
  EXPECT_TRUE(supports({32, 1, 32, 1, 32, 32, 1}, 100));
  EXPECT_TRUE(supports({1, 32, 32, 32, 1, 32, 1}, 100));
  EXPECT_FALSE(supports({32, 2, 16, 1, 32, 32, 1}, 100));
  EXPECT_FALSE(supports({7, 1, 16, 1, 32, 32, 1}, 100));
  EXPECT_FALSE(supports({512, 1, 1, 1, 512, 1, 64}, 100));
}

}  // namespace
}  // namespace einforge
