// A mixture of einsum layers against a float64 loop over all experts.
#include "einforge/ops/moe_routing.h"
#include "tests/ops/btt_moe_testing.h"

namespace einforge::testing::moe {
namespace {

EINFORGE_ON_DEVICES(BttMoe);

TEST_P(BttMoe, AgreesWithALoopOverExperts) {
  base::Random random(3);
  for (const std::int64_t count : {2, 8, 16, 64}) {
    for (const std::int64_t active : {1, 2, 4}) {
      if (active > count) {
        continue;
      }
      for (const std::int64_t tokens : {1, 2, 31, 64, 65, 200}) {
        compare_all(
            random,
            monarch(),
            Choice::kUniform,
            tokens,
            count,
            active,
            {torch::kFloat32, torch::kBFloat16});
      }
    }
  }
}

TEST_P(BttMoe, TakesAnySizes) {
  base::Random random(5);
  std::vector<Sizes> sizes = some_sizes();
  if (GetParam().type == torch::kCUDA) {  // what its own kernels take
    sizes.insert(
        sizes.end(),
        {{32, 1, 32, 1, 64, 64, 1},
         {64, 1, 64, 1, 32, 32, 1},
         {64, 1, 32, 1, 64, 32, 1},
         {64, 1, 64, 1, 64, 64, 1},
         {32, 1, 32, 1, 32, 32, 2},
         {1, 32, 32, 32, 1, 32, 1},
         {256, 1, 1, 1, 128, 1, 16},
         {1, 64, 1, 192, 1, 1, 8}});
  }
  for (const Sizes& s : sizes) {
    for (const std::int64_t tokens : {1, 70}) {
      compare_all(
          random,
          s,
          Choice::kUniform,
          tokens,
          8,
          2,
          {torch::kFloat64, torch::kFloat32, torch::kBFloat16});
    }
  }
}

TEST_P(BttMoe, TakesManyTokensOffTheTiles) {
  base::Random random(7);
  for (const auto [tokens, count, active] :
       {std::array<std::int64_t, 3>{5000, 16, 2},
        {3001, 64, 4},
        {1023, 2, 2}}) {
    compare_all(
        random,
        monarch(),
        Choice::kUniform,
        tokens,
        count,
        active,
        {torch::kFloat32, torch::kBFloat16});
  }
}

TEST_P(BttMoe, DropsNothingHoweverUnevenTheChoice) {
  base::Random random(11);
  for (const Choice choice :
       {Choice::kZipf, Choice::kOnePopular, Choice::kFirst}) {
    for (const std::int64_t active : {1, 2}) {
      compare_all(
          random, monarch(), choice, 777, 16, active, {torch::kFloat32});
    }
  }
}

TEST_P(BttMoe, EveryKernelRepeatsItselfBitForBit) {
  base::Random random(13);
  const Sizes s{16, 1, 16, 1, 32, 16, 1};
  const Tensor experts = choose(random, Choice::kZipf, 1333, 16, 2);
  for_each_kernel(
      s,
      1333,
      16,
      2,
      {torch::kFloat32, torch::kBFloat16},
      [&](const std::string& what, torch::ScalarType dtype) {
        const Operands o = random_operands(random, s, 16, experts, dtype)
                               .to(GetParam().type, dtype);
        const Results first = run(o);
        for (int repeat = 0; repeat < 5; ++repeat) {
          expect_equal(what, run(o), first);
        }
      });
}

// An expert that nobody took leaves no trace, and gets gradients of zero.
TEST_P(BttMoe, LeavesOtherExpertsAlone) {
  base::Random random(17);
  const Tensor experts = choose(random, Choice::kFirst, 70, 8, 2);
  for_each_kernel(
      monarch(),
      70,
      8,
      2,
      {torch::kFloat32, torch::kBFloat16},
      [&](const std::string& what, torch::ScalarType dtype) {
        Operands o = random_operands(random, monarch(), 8, experts, dtype)
                         .to(GetParam().type, dtype);
        const Results before = run(o);
        EXPECT_TRUE((before.core_a.slice(0, 2) == 0).all().item<bool>())
            << what;
        EXPECT_TRUE((before.core_b.slice(0, 2) == 0).all().item<bool>())
            << what;
        o.core_a.slice(0, 2).fill_(std::numeric_limits<double>::quiet_NaN());
        o.core_b.slice(0, 2).fill_(std::numeric_limits<double>::infinity());
        const Results after = run(o);
        EXPECT_TRUE(torch::equal(before.y, after.y)) << what;
        EXPECT_TRUE(torch::equal(before.x, after.x)) << what;
        EXPECT_TRUE(torch::equal(before.gates, after.gates)) << what;
      });
}

TEST_P(BttMoe, NanStaysInItsRow) {
  base::Random random(19);
  const Tensor experts = choose(random, Choice::kUniform, 70, 8, 2);
  for_each_kernel(
      monarch(),
      70,
      8,
      2,
      {torch::kFloat32, torch::kBFloat16},
      [&](const std::string& what, torch::ScalarType dtype) {
        Operands o = random_operands(random, monarch(), 8, experts, dtype)
                         .to(GetParam().type, dtype);
        // The last row too, with which a block might be filled up.
        for (const int row : {33, 69}) {
          o.x[row].fill_(std::numeric_limits<double>::quiet_NaN());
        }
        const Results got = run(o);
        const Tensor bad = got.y.isnan().all(1).to(torch::kCPU);
        EXPECT_TRUE(torch::equal(bad, got.y.isnan().any(1).cpu())) << what;
        EXPECT_EQ(bad.sum().item<int>(), 2) << what;
        EXPECT_TRUE((bad[33] & bad[69]).item<bool>()) << what;
        EXPECT_TRUE(got.x.isfinite().all().item<bool>()) << what;
        EXPECT_EQ(got.gates.isnan().any(1).sum().item<int>(), 2) << what;
      });
}

// From a router's weight through logits, softmax, gates and experts to a loss.
TEST(BttMoeGradient, AgreesWithFiniteDifferencesThroughTheRouter) {
  base::Random random(43);
  constexpr double kStep = 1e-6;
  for (const bool softmax_first : {false, true}) {
    for (const Sizes& s : {Sizes{4, 1, 6, 1, 5, 3, 2}, kMonarch}) {
      const Tensor experts = choose(random, Choice::kUniform, 9, 6, 2);
      const Operands o =
          random_operands(random, s, 6, experts, torch::kFloat64);
      const auto loss = [&](const std::vector<Tensor>& t) {
        const ops::MoeRouting routing = ops::moe_route(
            ops::moe_logits(t[0], t[3]), 2, {.softmax_first = softmax_first});
        const Tensor y = ops::btt_moe_linear(
            t[0], t[1], t[2], routing.experts, routing.gates);
        return (y * o.grad).sum();
      };
      std::vector<Tensor> leaves{
          o.x, o.core_a, o.core_b, testing::normal(random, {6, s.d_in()})};
      // Gates that are neither 0 nor 1.
      leaves[3] = leaves[3] / std::sqrt(static_cast<double>(s.d_in()));
      for (Tensor& leaf : leaves) {
        leaf.requires_grad_();
      }
      const auto grads = torch::autograd::grad({loss(leaves)}, leaves);
      const torch::NoGradGuard no_grad;
      for (size_t i = 0; i < leaves.size(); ++i) {
        const Tensor direction = testing::normal(random, leaves[i].sizes());
        auto ahead = leaves;
        auto behind = leaves;
        ahead[i] = leaves[i] + kStep * direction;
        behind[i] = leaves[i] - kStep * direction;
        const double numeric =
            ((loss(ahead) - loss(behind)) / (2 * kStep)).item<double>();
        const double analytic = (grads[i] * direction).sum().item<double>();
        const double scale = (grads[i] * direction).abs().sum().item<double>();
        EXPECT_NEAR(analytic, numeric, 1e-6 * scale)
            << testing::describe(s) << " operand " << i;
      }
    }
  }
}

}  // namespace
}  // namespace einforge::testing::moe
