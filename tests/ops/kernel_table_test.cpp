#include "einforge/ops/kernel_table.h"

#include <set>

#include "einforge/ops/einsum_linear.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using ops::ForcedKernel;
using structure::Sizes;
using testing::Tensor;
using testing::Values;

struct Device {
  torch::DeviceType type;
  std::span<const ops::EinsumLinearKernel> (*kernels)();
};

class KernelTable : public ::testing::TestWithParam<Device> {
 protected:
  // Forward and backward.
  static bool takes(
      const ops::EinsumLinearKernel& kernel,
      const Sizes& sizes,
      std::int64_t tokens,
      torch::ScalarType dtype) {
    ops::EinsumLinearProblem problem{
        .sizes = sizes,
        .tokens = tokens,
        .dtype = dtype,
        .device = GetParam().type};
    const bool forward = kernel.supports(problem);
    problem.pass = ops::Pass::kBackward;
    return forward && kernel.supports(problem);
  }
};

INSTANTIATE_TEST_SUITE_P(
    Devices,
    KernelTable,
    ::testing::Values(
        Device{torch::kCPU, ops::cpu_kernels},
        Device{torch::kCUDA, ops::cuda_kernels}),
    [](const auto& tested) {
      return std::string(tested.param.type == torch::kCPU ? "cpu" : "cuda");
    });

std::vector<Tensor> run(const Values& v) {
  const Tensor y = ops::einsum_linear(v.x, v.core_a, v.core_b, v.bias);
  const auto [x, a, b, bias] = ops::einsum_linear_backward(
      v.grad, v.x, v.core_a, v.core_b, {true, true, true, true});
  return {y, x, a, b, bias};
}

const std::vector<Sizes>& some_sizes() {
  static const std::vector<Sizes> sizes{
      {32, 1, 32, 1, 32, 32, 1},  // monarch, 1024
      {16, 1, 16, 1, 32, 32, 1},  // 256 -> 1024
      {8, 1, 12, 1, 7, 5, 3},     // nothing a multiple of anything
      {1, 1, 1, 1, 1, 1, 1},
      {1, 64, 4, 8, 1, 16, 2},  // the same family by the other order
      {96, 1, 1, 1, 80, 1, 8},  // low rank
  };
  return sizes;
}

TEST_P(KernelTable, EndsInAReferenceThatTakesEverything) {
  const auto table = GetParam().kernels();
  EXPECT_EQ(table.back().name, "bmm");
  EXPECT_EQ(table.back().preferred, nullptr);
  EXPECT_TRUE(table.back().supports(
      {.sizes = {2, 3, 4, 5, 6, 7, 8},
       .tokens = 1,
       .dtype = torch::kFloat64,
       .device = GetParam().type}));
}

// Each kernel at token counts around its tiles, against float64.
TEST_P(KernelTable, EveryKernelAgreesWithTheDefinition) {
  EINFORGE_NEEDS(GetParam().type);
  base::Random random(19);
  for (const auto& kernel : GetParam().kernels()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const Sizes& s : some_sizes()) {
        for (const std::int64_t tokens : {1, 15, 64, 65, 200}) {
          const bool supported = kernel.supports(
              {.sizes = s,
               .tokens = tokens,
               .dtype = dtype,
               .device = GetParam().type});
          if (!supported) {
            continue;
          }
          const ForcedKernel forced{std::string(kernel.name)};
          const Values exact =
              testing::random_values(random, s, {tokens}, dtype);
          const testing::Poison poison;
          const auto actual = run(exact.to(GetParam().type, dtype));
          const auto expected = testing::reference(exact, s);
          const auto magnitude = testing::reference(
              exact.map([](const Tensor& t) { return t.abs(); }), s);
          const std::string what = fmt::format(
              "{} {} {} tokens {}",
              kernel.name,
              c10::toString(dtype),
              tokens,
              testing::describe(s));
          const auto check = [&](const char* name,
                                 const Tensor& got,
                                 const Tensor& wanted,
                                 const Tensor& size) {
            testing::expect_close(
                what + name, got, wanted, size, dtype, tokens * s.d_in());
          };
          check(" y", actual[0], expected.y, magnitude.y);
          check(" x", actual[1], expected.x, magnitude.x);
          check(" core_a", actual[2], expected.core_a, magnitude.core_a);
          check(" core_b", actual[3], expected.core_b, magnitude.core_b);
          check(" bias", actual[4], expected.bias, magnitude.bias);
        }
      }
    }
  }
}

TEST_P(KernelTable, EveryKernelRepeatsItselfBitForBit) {
  EINFORGE_NEEDS(GetParam().type);
  base::Random random(23);
  const auto dtype =
      GetParam().type == torch::kCPU ? torch::kFloat32 : torch::kBFloat16;
  std::set<std::string_view> repeated;
  for (const Sizes& s :
       {Sizes{16, 1, 16, 1, 32, 16, 2}, Sizes{32, 32, 1, 32, 32, 1, 1}}) {
    for (const auto& kernel : GetParam().kernels()) {
      if (!takes(kernel, s, 333, dtype)) {
        continue;
      }
      repeated.insert(kernel.name);
      const ForcedKernel forced{std::string(kernel.name)};
      const Values v = testing::random_values(random, s, {333}, dtype)
                           .to(GetParam().type, dtype);
      const auto first = run(v);
      for (int repeat = 0; repeat < 10; ++repeat) {
        const auto again = run(v);
        for (size_t i = 0; i < first.size(); ++i) {
          EXPECT_TRUE(torch::equal(first[i], again[i]))
              << kernel.name << " result " << i;
        }
      }
    }
  }
  EXPECT_EQ(repeated.size(), GetParam().kernels().size());
}

TEST_P(KernelTable, NanAndInfinityPropagate) {
  EINFORGE_NEEDS(GetParam().type);
  base::Random random(29);
  const Sizes s{16, 1, 16, 1, 16, 16, 1};
  const auto dtype =
      GetParam().type == torch::kCPU ? torch::kFloat32 : torch::kBFloat16;
  for (const auto& kernel : GetParam().kernels()) {
    if (!takes(kernel, s, 200, dtype)) {
      continue;
    }
    const ForcedKernel forced{std::string(kernel.name)};
    Values v = testing::random_values(random, s, {200}, dtype)
                   .to(GetParam().type, dtype);
    v.x[3][5] = std::numeric_limits<float>::quiet_NaN();
    v.x[66][5] = std::numeric_limits<float>::infinity();
    const Tensor y = run(v)[0];
    // Every output of a row depends on every input, and no other row does.
    EXPECT_TRUE(y[3].isnan().all().item<bool>()) << kernel.name;
    EXPECT_FALSE(y[66].isfinite().any().item<bool>()) << kernel.name;
    EXPECT_TRUE(y[4].isfinite().all().item<bool>()) << kernel.name;
    EXPECT_TRUE(y[67].isfinite().all().item<bool>()) << kernel.name;
  }
}

TEST(KernelChoice, ForcesByNameAndListsTheNames) {
  const Tensor x = torch::ones({4, 6});
  const Tensor a = torch::ones({3, 2, 1, 2, 1});
  const Tensor b = torch::ones({1, 2, 4, 2, 1});
  const ForcedKernel forced("warp_drive");
  try {
    ops::einsum_linear(x, a, b);
    FAIL() << "expected an error";
  } catch (const c10::Error& error) {
    EXPECT_STREQ(
        error.what_without_backtrace(),
        "[einsum_linear] expected EINFORGE_KERNEL to be one of cpu_tiled, bmm "
        "for cpu Float forward 4 x (3,1,2 -> 1,4,2; 1); got warp_drive");
  }
}

TEST(KernelChoice, RefusesAForcedKernelThatDoesNotSupportTheProblem) {
  const auto meta = torch::kFloat64;
  const ForcedKernel forced("cpu_tiled");
  EXPECT_THROW(
      ops::einsum_linear(
          torch::ones({4, 6}, meta),
          torch::ones({3, 2, 1, 2, 1}, meta),
          torch::ones({1, 2, 4, 2, 1}, meta)),
      c10::Error);
}

TEST(KernelChoice, IsTheTiledKernelButForLowRankAndFloat64) {
  const auto chosen = [](const Sizes& sizes, torch::ScalarType dtype) {
    return ops::choose(
               ops::cpu_kernels(),
               {.sizes = sizes, .tokens = 2048, .dtype = dtype})
        .name;
  };
  for (const auto dtype :
       {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    EXPECT_EQ(chosen({32, 1, 32, 1, 32, 32, 1}, dtype), "cpu_tiled");
  }
  EXPECT_EQ(chosen({32, 1, 32, 1, 32, 32, 1}, torch::kFloat64), "bmm");
  EXPECT_EQ(chosen({8, 4, 32, 4, 8, 32, 1}, torch::kFloat32), "cpu_tiled");
  // One matrix that no cache holds, whichever exponent it comes from.
  EXPECT_EQ(chosen({256, 1, 1, 256, 1, 1, 1}, torch::kFloat32), "cpu_tiled");
  EXPECT_EQ(chosen({1024, 1, 1, 1024, 1, 1, 1}, torch::kFloat32), "bmm");
  EXPECT_EQ(chosen({1024, 1, 1, 1, 1, 2048, 1}, torch::kFloat32), "bmm");
  EXPECT_EQ(chosen({1, 1024, 2, 8, 8, 32, 2}, torch::kFloat32), "cpu_tiled");
  EXPECT_EQ(chosen({1024, 1, 1, 1, 1024, 1, 32}, torch::kFloat32), "bmm");
}

}  // namespace
}  // namespace einforge
