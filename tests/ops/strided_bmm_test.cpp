// The plans without copies are plain torch, so that the CPU can check them.
#include "einforge/ops/cuda/strided_bmm.h"

#include "tests/ops/plan_testing.h"

namespace einforge {
namespace {

using structure::Sizes;

TEST(Strided, AgreesWithTheDefinitionAtRandomPoints) {
  base::Random random(61);
  for (int point = 0; point < 60; ++point) {
    const Sizes s = testing::random_structure(random).sizes;
    testing::check_plan(ops::strided_kernel(), random, s, 1 + random.below(40));
  }
}

// gamma = phi = 1: all the ways that the sum over tokens can go.
TEST(Strided, AgreesWithTheDefinitionForKroneckerAndLowRank) {
  base::Random random(67);
  for (const Sizes& s :
       {Sizes{6, 4, 1, 5, 3, 1, 1},   // a first, x permuted
        Sizes{3, 16, 1, 2, 8, 1, 2},  // a first, a product a token
        Sizes{6, 4, 1, 5, 3, 1, 3},
        Sizes{2, 12, 1, 12, 2, 1, 2},  // b first
        Sizes{2, 4, 1, 12, 2, 1, 1},
        Sizes{16, 2, 1, 2, 8, 1, 2},
        Sizes{16, 1, 1, 1, 12, 1, 4},  // low rank, either way round
        Sizes{1, 16, 1, 12, 1, 1, 4},
        Sizes{1, 1, 1, 1, 1, 1, 1},
        Sizes{1, 8, 1, 1, 6, 1, 1},
        Sizes{8, 1, 1, 6, 1, 1, 1}}) {
    testing::check_plan(ops::strided_kernel(), random, s, 1);
    testing::check_plan(ops::strided_kernel(), random, s, 23);
  }
}

// Long enough for sums over tokens to be split.
TEST(Strided, AgreesWithTheDefinitionForManyTokens) {
  base::Random random(71);
  testing::check_plan(
      ops::strided_kernel(), random, {4, 4, 1, 4, 4, 1, 1}, 1024);
  testing::check_plan(
      ops::strided_kernel(), random, {16, 1, 1, 1, 12, 1, 2}, 1536);
  testing::check_plan(
      ops::strided_kernel(), random, {4, 1, 4, 1, 4, 4, 2}, 1000);
}

// The permutations that a kernel of our own takes, in both orders, and those
// that it leaves to torch.
TEST(Strided, AgreesWithTheDefinitionOnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  base::Random random(83);
  for (const Sizes& s :
       {Sizes{16, 1, 8, 1, 24, 16, 1},
        Sizes{16, 3, 8, 2, 8, 16, 2},
        Sizes{1, 16, 8, 24, 1, 16, 1},  // b first
        Sizes{3, 16, 8, 16, 2, 8, 2},
        Sizes{4, 1, 4, 1, 8, 12, 1},  // 16 bytes of float32 alone
        Sizes{5, 2, 3, 1, 7, 6, 2},
        Sizes{8, 16, 1, 16, 8, 1, 2},
        Sizes{64, 1, 1, 1, 48, 1, 4}}) {
    for (const std::int64_t tokens : {1, 6, 67, 600}) {
      testing::check_plan(
          ops::strided_kernel(), random, s, tokens, torch::kCUDA);
    }
  }
  // Rows that do not fit on chip, in either order.
  for (const Sizes& s :
       {Sizes{72, 4, 64, 1, 8, 8, 1}, Sizes{2, 264, 64, 8, 1, 8, 1}}) {
    testing::check_plan(ops::strided_kernel(), random, s, 3, torch::kCUDA);
  }
}

// For compute-sanitizer.
TEST(Strided, SmallShapesOnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  base::Random random(89);
  testing::check_plan(
      ops::strided_kernel(), random, {16, 2, 8, 1, 8, 16, 1}, 5, torch::kCUDA);
}

TEST(Strided, ComputesOnlyTheGradientsAskedFor) {
  base::Random random(73);
  for (const Sizes& s :
       {Sizes{3, 2, 2, 2, 3, 2, 2},
        Sizes{4, 4, 1, 4, 4, 1, 1},
        Sizes{2, 4, 1, 12, 2, 1, 1}}) {
    testing::check_mask(ops::strided_kernel(), random, s);
  }
}

TEST(Strided, TakesCoresOfAnyStrides) {
  base::Random random(79);
  for (const Sizes& s :
       {Sizes{3, 2, 2, 2, 3, 2, 2}, Sizes{4, 4, 1, 4, 4, 1, 2}}) {
    testing::check_strides(ops::strided_kernel(), random, s);
  }
}

}  // namespace
}  // namespace einforge
