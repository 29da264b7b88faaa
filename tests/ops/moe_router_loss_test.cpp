#include "einforge/ops/moe_router_loss.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

constexpr double kBalance = 0.3;
constexpr double kZ = 0.07;

// By the formulas, in float64.
Tensor definition(const Tensor& logits, const Tensor& counts) {
  const Tensor exponentials = logits.exp();
  const Tensor sums = exponentials.sum(1, /*keepdim=*/true);
  const Tensor mean = (exponentials / sums).mean(0);
  const Tensor balance = (mean * counts / counts.sum()).sum() *
                         static_cast<double>(counts.size(0));
  return kBalance * balance + kZ * sums.log().square().mean();
}

Tensor count(const Tensor& experts, std::int64_t number) {
  return (experts.reshape({-1, 1}) == torch::arange(number)).sum(0);
}

class MoeRouterLoss : public testing::DeviceTest {
 protected:
  MoeRouterLoss() { torch::manual_seed(3); }
};

EINFORGE_ON_EACH_DEVICE(MoeRouterLoss);

TEST_P(MoeRouterLoss, AgreesWithTheFormulas) {
  const testing::Poison poison;
  for (const std::int64_t number : {1, 2, 3, 8, 16, 33, 64, 200, 300}) {
    for (const std::int64_t tokens : {1, 7, number == 16 ? 20'001 : 1000}) {
      const std::int64_t active = std::min<std::int64_t>(number, 2);
      const Tensor experts =
          torch::randint(number, {tokens, active}, torch::kInt32);
      const Tensor counts = count(experts, number);
      const Tensor exact = 3 * torch::randn({tokens, number}) + 1;
      const Tensor wide = exact.to(torch::kFloat64).requires_grad_();
      const Tensor loss = definition(wide, counts);
      const Tensor grad = torch::autograd::grad({2.5 * loss}, {wide})[0];
      for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
        const auto what = fmt::format(
            "{} experts, {} tokens, {}",
            number,
            tokens,
            torch::toString(dtype));
        const double unit = dtype == torch::kFloat32 ? 3e-6 : 1e-13;
        const auto run = [&] {
          const Tensor here = exact.to(GetParam(), dtype).requires_grad_();
          const auto [got, got_counts] =
              ops::moe_router_loss(here, experts.to(GetParam()), kBalance, kZ);
          return std::tuple(
              got.detach().cpu(),
              got_counts.cpu(),
              torch::autograd::grad({2.5 * got}, {here})[0].cpu());
        };
        const auto [got, got_counts, got_grad] = run();
        EXPECT_EQ(got.scalar_type(), dtype) << what;
        EXPECT_EQ(got_grad.scalar_type(), dtype) << what;
        EXPECT_TRUE(torch::equal(got_counts, counts)) << what;
        const double value = loss.item<double>();
        EXPECT_NEAR(got.item<double>(), value, unit * value) << what;
        EXPECT_LE(testing::relative_error(got_grad, grad), unit) << what;
        const auto [again, again_counts, again_grad] = run();
        EXPECT_TRUE(torch::equal(again, got)) << what;
        EXPECT_TRUE(torch::equal(again_grad, got_grad)) << what;
      }
    }
  }
}

TEST_P(MoeRouterLoss, HasTheSlopeOfItsDifferences) {
  const auto like = torch::dtype(torch::kFloat64).device(GetParam());
  const Tensor experts =
      torch::randint(5, {40, 2}, torch::kInt32).to(GetParam());
  const Tensor logits = torch::randn({40, 5}, like).requires_grad_();
  const Tensor direction = torch::randn_like(logits);
  const auto loss = [&](double step) {
    return std::get<0>(
        ops::moe_router_loss(logits + step * direction, experts, kBalance, kZ));
  };
  const Tensor grad = torch::autograd::grad({loss(0)}, {logits})[0];
  constexpr double kStep = 1e-6;
  EXPECT_NEAR(
      (grad * direction).sum().item<double>(),
      ((loss(kStep) - loss(-kStep)) / (2 * kStep)).item<double>(),
      1e-8);
}

TEST_P(MoeRouterLoss, TakesStridesManyActiveAndWideChoices) {
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  const Tensor logits =
      torch::randn({16, 50}, like).t().requires_grad_();   // (50, 16)
  const Tensor experts = torch::randint(16, {5, 50}).t();  // (50, 5) int64
  const auto [loss, counts] =
      ops::moe_router_loss(logits, experts.to(GetParam()), kBalance, kZ);
  const Tensor expected = count(experts, 16);
  EXPECT_TRUE(torch::equal(counts.cpu(), expected));
  EXPECT_NEAR(
      loss.item<double>(),
      definition(logits.detach().cpu().to(torch::kFloat64), expected)
          .item<double>(),
      1e-5);
  EXPECT_EQ(torch::autograd::grad({loss}, {logits})[0].sizes(), logits.sizes());
}

TEST_P(MoeRouterLoss, OfNoTokensIsZero) {
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  const Tensor logits = torch::zeros({0, 8}, like).requires_grad_();
  const auto [loss, counts] = ops::moe_router_loss(
      logits, torch::zeros({0, 2}, like.dtype(torch::kInt32)), kBalance, kZ);
  EXPECT_EQ(loss.item<double>(), 0);
  EXPECT_TRUE((counts == 0).all().item<bool>());
  EXPECT_EQ(torch::autograd::grad({loss}, {logits})[0].sizes(), logits.sizes());
}

TEST_P(MoeRouterLoss, PassesNaNOn) {
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  Tensor logits = torch::randn({100, 16}, like);
  const Tensor experts = torch::zeros({100, 2}, like.dtype(torch::kInt32));
  for (const double bad : {NAN, INFINITY}) {
    logits[57][3] = bad;
    const auto [loss, counts] =
        ops::moe_router_loss(logits, experts, kBalance, kZ);
    EXPECT_TRUE(loss.isnan().item<bool>()) << bad;
  }
}

TEST(MoeRouterLoss, RejectsWhatDoesNotFit) {
  const Tensor experts = torch::zeros({4, 2}, torch::kInt32);
  EXPECT_THROW(
      ops::moe_router_loss(torch::zeros({3, 8}), experts, 1, 1), c10::Error);
  EXPECT_THROW(
      ops::moe_router_loss(torch::zeros({8}), experts, 1, 1), c10::Error);
}

}  // namespace
}  // namespace einforge
