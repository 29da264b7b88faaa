// The row "kronecker": layers with gamma = phi = 1 in one kernel.
#include "tests/ops/fused_testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Values;

constexpr const char* kRow = "kronecker";

class Kronecker : public ::testing::Test {
 protected:
  void SetUp() override {
    EINFORGE_NEEDS(torch::kCUDA);
    if (!testing::have_cuda_kernels()) {
      GTEST_SKIP() << "built without CUDA kernels";
    }
  }
};

Sizes sizes(
    std::int64_t alpha,
    std::int64_t beta,
    std::int64_t delta,
    std::int64_t epsilon,
    std::int64_t rho) {
  return {alpha, beta, 1, delta, epsilon, 1, rho};
}

// One of each pair of kernels, with any rank that they have room for.
Sizes random_sizes(base::Random& random) {
  static const Sizes kinds[] = {
      sizes(32, 32, 32, 32, 1),
      sizes(32, 64, 32, 64, 1),
      sizes(32, 64, 64, 32, 1),
      sizes(64, 64, 64, 64, 1),
      sizes(32, 32, 64, 64, 1),
      sizes(64, 64, 32, 32, 1),
      sizes(16, 32, 16, 32, 1),
      sizes(16, 128, 16, 128, 1)};
  Sizes s = kinds[random.below(std::size(kinds))];
  s.rho = random.below(2) == 0 ? 1 : 1 + random.below(9);
  return s;
}

TEST_F(Kronecker, AgreesWithFloat64AtRandomPoints) {
  base::Random random(97);
  int points = 0;
  for (int tried = 0; tried < 1000 && points < 200 && !HasFailure(); ++tried) {
    const Sizes s = random_sizes(random);
    const std::int64_t tokens = 1 + random.below(random.below(2) ? 40 : 400);
    if (!testing::row_supports(kRow, s, tokens)) {
      continue;
    }
    ++points;
    testing::compare(
        kRow,
        fmt::format("{} tokens {}", testing::describe(s), tokens),
        testing::random_on_gpu(random, s, tokens),
        s);
  }
  EXPECT_GE(points, 200);
}

// Many tokens for each warp, and more of rank than a warp group has.
TEST_F(Kronecker, AgreesWithFloat64AtTheSizesOfTransformers) {
  base::Random random(101);
  for (const Sizes& s :
       {sizes(32, 32, 32, 32, 1),
        sizes(32, 32, 32, 32, 4),
        sizes(32, 32, 32, 32, 6),
        sizes(32, 32, 32, 32, 20),
        sizes(32, 64, 32, 64, 1),
        sizes(32, 64, 64, 32, 7),
        sizes(64, 64, 64, 64, 1),
        sizes(64, 64, 64, 64, 8),
        sizes(16, 128, 16, 128, 1)}) {
    const std::int64_t tokens = 9001 / (1 + s.rho / 4);
    ASSERT_TRUE(testing::row_supports(kRow, s, tokens)) << testing::describe(s);
    testing::compare(
        kRow,
        testing::describe(s),
        testing::random_on_gpu(random, s, tokens),
        s);
  }
}

// For compute-sanitizer: few tokens, each kernel.
TEST_F(Kronecker, SmallShapesOfEveryKernel) {
  base::Random random(103);
  for (const Sizes& s :
       {sizes(32, 32, 32, 32, 1),
        sizes(32, 32, 32, 32, 3),
        sizes(32, 64, 32, 64, 1),
        sizes(32, 64, 64, 32, 2),
        sizes(64, 64, 64, 64, 1),
        sizes(32, 32, 64, 64, 1),
        sizes(64, 64, 32, 32, 1),
        sizes(16, 32, 16, 32, 2),
        sizes(16, 128, 16, 128, 1)}) {
    for (const std::int64_t tokens : {1, 67}) {
      ASSERT_TRUE(testing::row_supports(kRow, s, tokens))
          << testing::describe(s);
      testing::compare_on_cpu(
          kRow, testing::random_on_gpu(random, s, tokens), s);
    }
  }
}

TEST_F(Kronecker, RepeatsItselfBitForBit) {
  base::Random random(107);
  for (const Sizes& s :
       {sizes(32, 32, 32, 32, 1),
        sizes(32, 64, 64, 32, 7),
        sizes(64, 64, 64, 64, 3)}) {
    testing::expect_repeats(kRow, testing::random_on_gpu(random, s, 3001));
  }
}

TEST_F(Kronecker, NanAndInfinityPropagate) {
  base::Random random(109);
  for (const Sizes& s : {sizes(32, 32, 32, 32, 1), sizes(32, 64, 64, 32, 2)}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(),
          std::numeric_limits<float>::infinity()}) {
      Values v = testing::random_on_gpu(random, s, 300);
      v.x[70][5] = value;
      v.grad[211][9] = value;
      const auto got = testing::run_with(kRow, v);
      EXPECT_FALSE(got[0][70].isfinite().any().item<bool>());
      EXPECT_FALSE(got[1][211].isfinite().any().item<bool>());
      for (const std::int64_t other : {69, 71, 210, 212}) {
        EXPECT_TRUE(got[0][other].isfinite().all().item<bool>()) << other;
        EXPECT_TRUE(got[1][other].isfinite().all().item<bool>()) << other;
      }
      // x (alpha, beta = 0, 5) reaches the gradients of alpha 0 and, by z, of
      // beta 5; grad (delta, epsilon = 0, 9) those of delta 0 and epsilon 9.
      EXPECT_FALSE(got[2].select(0, 0).isfinite().any().item<bool>());
      EXPECT_FALSE(got[3].select(0, 5).isfinite().any().item<bool>());
      EXPECT_FALSE(got[2].select(2, 0).isfinite().any().item<bool>());
      EXPECT_FALSE(got[3].select(2, 9).isfinite().any().item<bool>());
      EXPECT_TRUE(got[2][1][0][1].isfinite().all().item<bool>());
      EXPECT_TRUE(got[3][1][0][1].isfinite().all().item<bool>());
    }
  }
}

TEST_F(Kronecker, TakesAnyStridesAndAlignments) {
  base::Random random(113);
  for (const Sizes& s : {sizes(32, 32, 32, 32, 2), sizes(32, 64, 64, 32, 3)}) {
    testing::expect_any_strides(kRow, testing::random_on_gpu(random, s, 77), s);
  }
}

TEST_F(Kronecker, CanBeCapturedInAGraph) {
  base::Random random(127);
  const Sizes s = sizes(32, 64, 32, 64, 1);
  testing::expect_graph_replays(
      kRow,
      testing::random_on_gpu(random, s, 500),
      testing::random_on_gpu(random, s, 500));
}

TEST_F(Kronecker, ComputesOnlyTheGradientsAskedFor) {
  base::Random random(131);
  const Sizes s = sizes(32, 32, 32, 32, 2);
  const Values v = testing::random_on_gpu(random, s, 50);
  const auto all = testing::run_with(kRow, v);
  const ops::ForcedKernel forced(kRow);
  for (unsigned bits = 0; bits < 16; ++bits) {
    std::array<bool, 4> mask{};
    for (unsigned i = 0; i < 4; ++i) {
      mask[i] = (bits >> i & 1) != 0;
    }
    const auto [x, a, b, bias] =
        ops::einsum_linear_backward(v.grad, v.x, v.core_a, v.core_b, mask);
    const testing::Tensor got[] = {x, a, b, bias};
    for (unsigned i = 0; i < 4; ++i) {
      EXPECT_TRUE(
          mask[i] ? torch::equal(got[i], all[i + 1]) : got[i].numel() == 0)
          << testing::kResultNames[i + 1] << " of " << bits;
    }
  }
}

TEST_F(Kronecker, LeavesOtherShapesToMatmuls) {
  EXPECT_TRUE(testing::row_supports(kRow, sizes(32, 32, 32, 32, 1), 100));
  EXPECT_FALSE(testing::row_supports(kRow, sizes(32, 32, 32, 32, 999), 100));
  EXPECT_FALSE(testing::row_supports(kRow, sizes(8, 128, 8, 128, 1), 100));
  EXPECT_FALSE(testing::row_supports(kRow, sizes(512, 1, 1, 512, 64), 100));
  EXPECT_FALSE(testing::row_supports(kRow, {32, 1, 32, 1, 32, 32, 1}, 100));
}

}  // namespace
}  // namespace einforge
