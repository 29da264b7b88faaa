// The row "merged" is matmuls of torch but for two kernels of our own on CUDA.
#include "einforge/ops/merged.h"

#include "einforge/ops/reference/einsum_linear.h"
#include "tests/ops/fused_testing.h"
#include "tests/ops/plan_testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Values;

TEST(Merged, AgreesWithTheDefinitionAtRandomPoints) {
  base::Random random(97);
  for (int point = 0; point < 60; ++point) {
    const Sizes s = testing::random_structure(random).sizes;
    testing::check_plan(ops::merged_kernel(), random, s, 1 + random.below(40));
  }
}

// gamma of 8 and more, which our own kernels take in bfloat16: sums longer and
// shorter than a piece and its slices, ranks that fill no block, either order.
TEST(Merged, AgreesWithTheDefinitionOnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  base::Random random(101);
  for (const Sizes& s :
       {Sizes{4, 1, 16, 1, 5, 3, 1},
        Sizes{3, 2, 8, 2, 3, 2, 5},
        Sizes{1, 6, 8, 7, 1, 3, 4},
        Sizes{2, 3, 24, 3, 2, 1, 9},
        Sizes{70, 1, 32, 1, 17, 2, 4},
        Sizes{6, 4, 8, 3, 5, 8, 6},
        Sizes{150, 1, 16, 1, 33, 1, 3},
        Sizes{5, 40, 8, 7, 6, 1, 2},
        Sizes{6, 4, 1, 3, 5, 1, 2},
        Sizes{3, 2, 5, 2, 3, 4, 2}}) {
    for (const std::int64_t tokens : {1, 67, 600}) {
      testing::check_plan(
          ops::merged_kernel(), random, s, tokens, torch::kCUDA);
    }
  }
}

// For compute-sanitizer.
TEST(Merged, SmallShapesOnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  base::Random random(103);
  testing::check_plan(
      ops::merged_kernel(), random, {3, 2, 8, 2, 3, 2, 5}, 5, torch::kCUDA);
}

TEST(Merged, ComputesOnlyTheGradientsAskedFor) {
  base::Random random(107);
  testing::check_mask(ops::merged_kernel(), random, {3, 2, 2, 2, 3, 2, 2});
}

TEST(Merged, TakesCoresOfAnyStrides) {
  base::Random random(109);
  testing::check_strides(ops::merged_kernel(), random, {3, 2, 2, 2, 3, 2, 2});
}

// No worse than 1.5 times the error of two bfloat16 matmuls, one after the
// other.
TEST(Merged, IsAsExactAsTwoMatmuls) {
  base::Random random(127);
  for (const Sizes& s :
       {Sizes{16, 1, 16, 1, 16, 16, 1},
        Sizes{16, 1, 16, 1, 32, 8, 4},
        Sizes{8, 4, 8, 4, 8, 8, 6},
        Sizes{16, 16, 1, 16, 16, 1, 2}}) {
    const Values exact =
        testing::random_values(random, s, {600}, torch::kBFloat16);
    const Values v = exact.to(torch::kCPU, torch::kBFloat16);
    const auto got = testing::run_plan(ops::merged_kernel(), s, v);
    const auto plain = testing::run_plan(ops::bmm_kernel(), s, v);
    const auto expected = testing::listed(testing::reference(exact, s));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(
          testing::relative_error(got[i], expected[i]),
          1.5 * testing::relative_error(plain[i], expected[i]) + 1e-4)
          << testing::describe(s) << " " << testing::kPlanResults[i];
    }
  }
}

class MergedOnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    EINFORGE_NEEDS(torch::kCUDA);
    if (!testing::have_cuda_kernels()) {
      GTEST_SKIP() << "built without CUDA kernels";
    }
  }
};

// The same at the sizes of transformers.
TEST_F(MergedOnCuda, IsAsExactAsTwoMatmuls) {
  base::Random random(131);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 32, 32, 1},
        Sizes{32, 1, 32, 1, 32, 32, 4},
        Sizes{64, 1, 64, 1, 64, 64, 4},
        Sizes{256, 1, 16, 1, 16, 256, 8},
        Sizes{16, 8, 8, 8, 16, 8, 6},
        Sizes{1, 32, 64, 64, 1, 32, 3},  // b first
        Sizes{32, 32, 1, 32, 32, 1, 6}}) {
    testing::compare(
        "merged",
        testing::describe(s),
        testing::random_on_gpu(random, s, 4100),
        s);
  }
}

// The cores' gradients this way, the rest by the fused kernels.
TEST_F(MergedOnCuda, GivesTheCoresTheirGradientsBesideFusedKernels) {
  base::Random random(133);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 32, 32, 4},
        Sizes{64, 1, 64, 1, 64, 64, 4},
        Sizes{1, 32, 64, 64, 1, 32, 3}}) {  // b first
    const Values v = testing::random_on_gpu(random, s, 4100);
    testing::compare("fused_merged", testing::describe(s), v, s);
    testing::expect_repeats("fused_merged", v);
    const Values in_own_layout{
        v.x,
        ops::core_a_layout(v.core_a, s),
        ops::core_b_layout(v.core_b, s),
        v.bias,
        v.grad};
    testing::compare("fused_merged", testing::describe(s), in_own_layout, s);
  }
}

TEST_F(MergedOnCuda, TakesCoresOfAnyStridesAndAlignments) {
  base::Random random(137);
  const Sizes s{6, 4, 8, 3, 5, 8, 6};
  Values v = testing::random_on_gpu(random, s, 600);
  v.core_a = torch::stack({v.core_a, v.core_a + 1}, -1).select(-1, 0);
  // As the kernels read it, but 2 bytes further on.
  const auto like = v.core_b.permute({2, 3, 4, 0, 1});
  v.core_b = torch::empty({like.numel() + 1}, like.options())
                 .slice(0, 1)
                 .view(like.sizes())
                 .copy_(like)
                 .permute({3, 4, 0, 1, 2});
  testing::compare("merged", testing::describe(s), v, s);
}

TEST_F(MergedOnCuda, RepeatsItselfAndCanBeCaptured) {
  base::Random random(139);
  for (const Sizes& s :
       {Sizes{32, 1, 16, 1, 16, 32, 2}, Sizes{6, 4, 8, 3, 5, 8, 6}}) {
    const Values v = testing::random_on_gpu(random, s, 600);
    testing::expect_repeats("merged", v);
    testing::expect_graph_replays(
        "merged", v, testing::random_on_gpu(random, s, 600));
  }
}

TEST(Merged, LeavesFewTokensToOthers) {
  const auto takes = [](std::int64_t tokens) {
    return ops::merged_kernel().supports(
        {.sizes = {16, 1, 16, 1, 32, 32, 1}, .tokens = tokens});
  };
  EXPECT_FALSE(takes(1));
  EXPECT_FALSE(takes(128));
  EXPECT_TRUE(takes(129));  // they count in powers of two
  EXPECT_TRUE(takes(256));
}

}  // namespace
}  // namespace einforge
