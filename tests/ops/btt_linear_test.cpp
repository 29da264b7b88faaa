// The fused CUDA kernels of the block-tensor-train family.
#include <algorithm>

#include "tests/ops/fused_testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::random_on_gpu;
using testing::run_with;
using testing::Tensor;
using testing::Values;

bool supports(const Sizes& sizes, std::int64_t tokens) {
  return testing::row_supports("fused", sizes, tokens);
}

class FusedBtt : public ::testing::Test {
 protected:
  void SetUp() override {
    EINFORGE_NEEDS(torch::kCUDA);
    if (!testing::have_cuda_kernels()) {
      GTEST_SKIP() << "built without CUDA kernels";
    }
  }
};

Sizes random_sizes(base::Random& random) {
  const auto size = [&] {
    static const std::int64_t sizes[] = {
        8, 16, 24, 32, 32, 32, 40, 48, 64, 64, 128};
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
  for (int tried = 0; tried < 9000 && points < 500 && !HasFailure(); ++tried) {
    const Sizes s = random_sizes(random);
    const std::int64_t tokens = 1 + random.below(random.below(2) ? 40 : 400);
    if (s.d_in() > 4096 || s.d_out() > 4096 || !supports(s, tokens)) {
      continue;
    }
    ++points;
    testing::compare(
        "fused",
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
        Sizes{16, 1, 24, 1, 24, 16, 1},
        Sizes{24, 1, 32, 1, 32, 24, 1},
        Sizes{32, 1, 24, 1, 64, 48, 1},
        Sizes{64, 1, 48, 1, 32, 24, 1},
        Sizes{32, 1, 40, 1, 40, 32, 1},
        Sizes{32, 1, 48, 1, 48, 32, 1},
        Sizes{40, 1, 40, 1, 40, 40, 1},
        Sizes{48, 1, 64, 1, 64, 48, 1},
        Sizes{32, 1, 32, 1, 32, 32, 4},
        Sizes{32, 1, 64, 1, 64, 32, 3},
        Sizes{64, 1, 64, 1, 64, 64, 4}}) {
    ASSERT_TRUE(supports(s, 4100)) << testing::describe(s);
    testing::compare(
        "fused", testing::describe(s), random_on_gpu(random, s, 4100), s);
  }
}

// In two passes, by kernels that are compiled for these sizes: gamma and phi
// that are no multiples of eight, sides above 64, few and many tokens.
TEST_F(FusedBtt, TwoPassesAgreeWithFloat64AtRandomPoints) {
  base::Random random(43);
  const auto size = [&] {
    return static_cast<std::int64_t>(5 + random.below(100));
  };
  int points = 0;
  for (int tried = 0; tried < 1000 && points < 20 && !HasFailure(); ++tried) {
    const Sizes s{
        .alpha = size(),
        .gamma = size(),
        .epsilon = size(),
        .phi = size(),
        .rho = static_cast<std::int64_t>(random.below(4) == 0 ? 2 : 1)};
    const std::int64_t tokens = 1 + random.below(random.below(2) ? 40 : 400);
    if (!testing::row_supports("two_pass", s, tokens)) {
      continue;
    }
    ++points;
    testing::compare(
        "two_pass",
        fmt::format("{} tokens {}", testing::describe(s), tokens),
        random_on_gpu(random, s, tokens),
        s);
  }
  EXPECT_GE(points, 20);
}

TEST_F(FusedBtt, TwoPassesTakeAnyStridesRepeatThemselvesAndAreCaptured) {
  base::Random random(47);
  for (const Sizes& s :
       {Sizes{40, 1, 32, 1, 80, 64, 1}, Sizes{24, 1, 46, 1, 48, 57, 1}}) {
    testing::expect_any_strides("two_pass", random_on_gpu(random, s, 77), s);
    testing::expect_repeats("two_pass", random_on_gpu(random, s, 3001));
    testing::expect_graph_replays(
        "two_pass",
        random_on_gpu(random, s, 500),
        random_on_gpu(random, s, 500));
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
        // Smaller than their kernels, by rows and by columns.
        Sizes{16, 1, 24, 1, 24, 16, 1},
        Sizes{7, 1, 16, 1, 32, 32, 1},
        // The fused backward kernel's: 64 x 32, both ways, and 64 x 64.
        Sizes{64, 1, 16, 1, 32, 32, 1},
        Sizes{32, 1, 32, 1, 64, 16, 2},
        Sizes{64, 1, 16, 1, 64, 32, 1}}) {
    for (const std::int64_t tokens : {1, 67}) {
      testing::compare_on_cpu("fused", random_on_gpu(random, s, tokens), s);
    }
  }
}

TEST_F(FusedBtt, RepeatsItselfBitForBit) {
  base::Random random(43);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 32, 32, 1},
        Sizes{64, 1, 64, 1, 64, 64, 2},
        Sizes{24, 1, 32, 1, 32, 24, 1}}) {
    testing::expect_repeats("fused", random_on_gpu(random, s, 3001));
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
  for (const Sizes& s :
       {Sizes{32, 1, 16, 1, 16, 32, 2}, Sizes{7, 1, 16, 1, 32, 32, 1}}) {
    testing::expect_any_strides("fused", random_on_gpu(random, s, 77), s);
  }
}

TEST_F(FusedBtt, CanBeCapturedInAGraph) {
  base::Random random(59);
  for (const Sizes& s :
       {Sizes{32, 1, 32, 1, 64, 32, 1}, Sizes{24, 1, 32, 1, 32, 24, 1}}) {
    const Values v = random_on_gpu(random, s, 500);
    testing::expect_graph_replays("fused", v, random_on_gpu(random, s, 500));
  }
}

TEST_F(FusedBtt, LeavesOtherShapesToMatmuls) {
  EXPECT_TRUE(supports({32, 1, 32, 1, 32, 32, 1}, 100));
  EXPECT_TRUE(supports({1, 32, 32, 32, 1, 32, 1}, 100));
  EXPECT_FALSE(supports({32, 2, 16, 1, 32, 32, 1}, 100));
  EXPECT_TRUE(supports({7, 1, 16, 1, 32, 32, 1}, 100));
  EXPECT_FALSE(supports({16, 1, 20, 1, 32, 32, 1}, 100));
  EXPECT_FALSE(supports({80, 1, 24, 1, 24, 80, 1}, 100));
  EXPECT_FALSE(supports({512, 1, 1, 1, 512, 1, 64}, 100));
}

}  // namespace
}  // namespace einforge
