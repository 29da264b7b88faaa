// The plans without copies are plain torch, so that the CPU can check them.
#include "einforge/ops/cuda/strided_bmm.h"

#include "einforge/ops/einsum_linear.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Tensor;
using testing::Values;

ops::EinsumLinearProblem problem_of(
    const Sizes& sizes, const Values& v, ops::Pass pass) {
  return {
      .sizes = sizes,
      .tokens = v.x.size(0),
      .dtype = v.x.scalar_type(),
      .device = v.x.device().type(),
      .pass = pass};
}

std::vector<Tensor> run(
    const Sizes& sizes, const Values& v, const ops::GradientMask& mask) {
  const auto kernel = ops::strided_kernel();
  const Tensor y = kernel.forward(
      problem_of(sizes, v, ops::Pass::kForward),
      v.x,
      v.core_a,
      v.core_b,
      v.bias);
  const auto grads = kernel.backward(
      problem_of(sizes, v, ops::Pass::kBackward),
      v.grad,
      v.x,
      v.core_a,
      v.core_b,
      mask);
  return {y, grads.x, grads.core_a, grads.core_b, grads.bias};
}

constexpr ops::GradientMask kAll{true, true, true, true};

void check(
    base::Random& random,
    const Sizes& s,
    std::int64_t tokens,
    torch::Device device = torch::kCPU) {
  for (const auto dtype :
       {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
    const Values exact = testing::random_values(random, s, {tokens}, dtype);
    const testing::Poison poison;
    const auto actual = run(s, exact.to(device, dtype), kAll);
    const auto expected = testing::reference(exact, s);
    const auto magnitude = testing::reference(
        exact.map(+[](const Tensor& t) { return t.abs(); }), s);
    const std::string what =
        fmt::format("{} tokens {}", testing::describe(s), tokens);
    const std::tuple<const char*, Tensor, Tensor> checks[] = {
        {" y", expected.y, magnitude.y},
        {" x", expected.x, magnitude.x},
        {" core_a", expected.core_a, magnitude.core_a},
        {" core_b", expected.core_b, magnitude.core_b},
        {" bias", expected.bias, magnitude.bias}};
    for (size_t i = 0; i < actual.size(); ++i) {
      const auto& [name, wanted, size] = checks[i];
      testing::expect_close(
          what + name, actual[i], wanted, size, dtype, tokens * s.d_in());
    }
  }
}

TEST(Strided, AgreesWithTheDefinitionAtRandomPoints) {
  base::Random random(61);
  for (int point = 0; point < 60; ++point) {
    const Sizes s = testing::random_structure(random).sizes;
    check(random, s, 1 + random.below(40));
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
    check(random, s, 1);
    check(random, s, 23);
  }
}

// Long enough for sums over tokens to be split.
TEST(Strided, AgreesWithTheDefinitionForManyTokens) {
  base::Random random(71);
  check(random, {4, 4, 1, 4, 4, 1, 1}, 1024);
  check(random, {16, 1, 1, 1, 12, 1, 2}, 1536);
  check(random, {4, 1, 4, 1, 4, 4, 2}, 1000);
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
      check(random, s, tokens, torch::kCUDA);
    }
  }
}

// For compute-sanitizer.
TEST(Strided, SmallShapesOnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  base::Random random(89);
  check(random, {16, 2, 8, 1, 8, 16, 1}, 5, torch::kCUDA);
}

TEST(Strided, ComputesOnlyTheGradientsAskedFor) {
  base::Random random(73);
  for (const Sizes& s :
       {Sizes{3, 2, 2, 2, 3, 2, 2},
        Sizes{4, 4, 1, 4, 4, 1, 1},
        Sizes{2, 4, 1, 12, 2, 1, 1}}) {
    const Values v = testing::random_values(random, s, {7}, torch::kFloat64);
    const auto all = run(s, v, kAll);
    for (size_t which = 0; which < 4; ++which) {
      ops::GradientMask mask{};
      mask[which] = true;
      const auto some = run(s, v, mask);
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(some[i + 1].defined(), i == which);
      }
      EXPECT_TRUE(torch::allclose(some[which + 1], all[which + 1]));
    }
  }
}

// Any strides of the cores.
TEST(Strided, TakesCoresOfAnyStrides) {
  base::Random random(79);
  for (const Sizes& s :
       {Sizes{3, 2, 2, 2, 3, 2, 2}, Sizes{4, 4, 1, 4, 4, 1, 2}}) {
    Values v = testing::random_values(random, s, {7}, torch::kFloat64);
    const auto expected = run(s, v, kAll);
    v.core_a = torch::stack({v.core_a, v.core_a + 1}, -1).select(-1, 0);
    v.core_b =
        v.core_b.permute({4, 2, 0, 1, 3}).contiguous().permute({2, 3, 1, 4, 0});
    const auto actual = run(s, v, kAll);
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_TRUE(torch::allclose(actual[i], expected[i])) << i;
    }
  }
}

}  // namespace
}  // namespace einforge
