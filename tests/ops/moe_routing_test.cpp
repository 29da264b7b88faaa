// Who takes which token, in which order, and mixtures of dense experts.
#include "einforge/ops/moe_routing.h"

#include <ATen/autocast_mode.h>

#include "einforge/ops/moe_grouped.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

class Moe : public testing::DeviceTest {
 protected:
  Tensor here(const Tensor& tensor) const { return tensor.to(GetParam()); }
};

EINFORGE_ON_EACH_DEVICE(Moe);

std::vector<std::int64_t> numbers(const Tensor& tensor) {
  const Tensor flat = tensor.to(torch::kCPU, torch::kInt64).contiguous();
  const auto* data = flat.const_data_ptr<std::int64_t>();
  return {data, data + flat.numel()};
}

const double kOneApart = 1 / (1 + std::exp(-1.0));  // of softmax(1, 0)

TEST_P(Moe, TakesTheHighestAndOfEqualOnesTheFirst) {
  const Tensor logits = here(
      torch::tensor(
          {0., 0., 0., 0., 1., 3., 3., 2., -1., -3., -1., -1., 5., 4., 6., 7.})
          .view({4, 4}));
  const auto [experts, gates] = ops::moe_route(logits, 2);
  EXPECT_EQ(
      numbers(experts), (std::vector<std::int64_t>{0, 1, 1, 2, 0, 2, 3, 2}));
  EXPECT_EQ(experts.scalar_type(), torch::kInt32);
  EXPECT_TRUE((gates.slice(0, 0, 3) == 0.5).all().item<bool>());
  EXPECT_NEAR(gates[3][0].item<double>(), kOneApart, 1e-6);
  EXPECT_NEAR(gates[3][1].item<double>(), 1 - kOneApart, 1e-6);
}

TEST_P(Moe, TiesGoToTheFirstInLongRowsToo) {
  for (const std::int64_t count : {16, 64, 200}) {
    const Tensor logits = here(torch::zeros({300, count}));
    const Tensor experts = ops::moe_route(logits, 4).experts.cpu();
    EXPECT_TRUE(torch::equal(
        experts, torch::arange(4, torch::kInt32).expand({300, 4})));
  }
}

TEST_P(Moe, SharesOfAllExpertsAreNotNormalisedAgain) {
  torch::manual_seed(1);
  const Tensor logits = here(torch::randn({50, 8}));
  const auto routing = ops::moe_route(logits, 2, {.softmax_first = true});
  const Tensor shares = logits.exp() / logits.exp().sum(1, true);
  EXPECT_TRUE(torch::allclose(
      routing.gates, shares.gather(1, routing.experts.to(torch::kInt64))));
}

TEST_P(Moe, BiasMovesTheChoiceAndNotTheGates) {
  const Tensor logits = here(torch::tensor({3.0, 2.0, 1.0, 0.0}).view({1, 4}));
  const Tensor bias = here(torch::tensor({-10.0, 0.0, 0.0, 0.5}));
  const auto [experts, gates] = ops::moe_route(logits, 2, {.bias = bias});
  EXPECT_EQ(numbers(experts), (std::vector<std::int64_t>{1, 2}));
  EXPECT_NEAR(gates[0][0].item<double>(), kOneApart, 1e-6);
}

// Against the derivative of p_i = exp(l_i) / sum_j exp(l_j), in float64; the
// sum is over the chosen, or over all.
TEST_P(Moe, GatesHaveTheGradientOfASoftmax) {
  torch::manual_seed(2);
  for (const std::int64_t count : {2, 16, 64, 200}) {
    for (const std::int64_t active : {1, 2, 4}) {
      if (active > count) {
        continue;
      }
      for (const bool softmax_first : {false, true}) {
        if (active == 1 && !softmax_first) {
          continue;  // refused: it has no gradient
        }
        const Tensor logits =
            here(2 * torch::randn({777, count})).requires_grad_();
        const auto [experts, gates] =
            ops::moe_route(logits, active, {.softmax_first = softmax_first});
        const Tensor grad = here(torch::randn({777, active}));
        const Tensor got =
            torch::autograd::grad({gates}, {logits}, {grad})[0].cpu();
        const Tensor wide = logits.detach().to(torch::kCPU, torch::kFloat64);
        const Tensor chosen = experts.to(torch::kCPU, torch::kInt64);
        const Tensor is_chosen =
            torch::zeros({777, count}, torch::kFloat64).scatter_(1, chosen, 1);
        const Tensor weight =
            wide.exp() * (softmax_first ? torch::ones_like(wide) : is_chosen);
        const Tensor p = weight / weight.sum(1, true);
        const Tensor dp =
            torch::zeros({777, count}, torch::kFloat64)
                .scatter_(1, chosen, grad.cpu().to(torch::kFloat64));
        const Tensor expected = p * (dp - (p * dp).sum(1, true));
        const std::string what = fmt::format("{} of {}", active, count);
        EXPECT_LT(
            (gates.detach().cpu() - p.gather(1, chosen))
                .abs()
                .max()
                .item<double>(),
            1e-6)
            << what;
        EXPECT_LT((got - expected).abs().max().item<double>(), 2e-6) << what;
      }
    }
  }
}

TEST_P(Moe, OneExpertHasGateOne) {
  for (const auto& softmax_first :
       {std::optional<bool>(), std::optional(false), std::optional(true)}) {
    const auto routing = ops::moe_route(
        here(torch::randn({9, 1})), 1, {.softmax_first = softmax_first});
    EXPECT_TRUE((routing.gates == 1).all().item<bool>());
  }
}

// A softmax over the one that is chosen would be 1, and train no router.
TEST_P(Moe, OneActiveExpertOfSeveralHasItsShareOfAll) {
  torch::manual_seed(6);
  const Tensor logits = here(torch::randn({60, 5})).requires_grad_();
  const auto routing = ops::moe_route(logits, 1);
  const Tensor shares = logits.exp() / logits.exp().sum(1, true);
  EXPECT_TRUE(torch::allclose(
      routing.gates, std::get<0>(shares.max(1, /*keepdim=*/true))));
  const Tensor grad = torch::autograd::grad({routing.gates.sum()}, {logits})[0];
  EXPECT_GT(grad.abs().max().item<double>(), 0.01);
  EXPECT_THROW(ops::moe_route(logits, 1, {.softmax_first = false}), c10::Error);
}

TEST_P(Moe, SortsPairsByExpertAndThenByToken) {
  base::Random random(5);
  for (const std::int64_t count : {1, 2, 16, 64}) {
    for (const std::int64_t tokens : {0, 1, 7, 1000}) {
      for (const auto dtype : {torch::kInt32, torch::kInt64}) {
        const std::int64_t active = std::min<std::int64_t>(count, 2);
        std::vector<std::int64_t> chosen;
        std::vector<std::vector<std::int64_t>> pairs(
            static_cast<size_t>(count));
        for (std::int64_t pair = 0; pair < tokens * active; ++pair) {
          // The upper half gets nothing.
          const auto e = random.below(static_cast<std::uint64_t>(count)) / 2;
          chosen.push_back(static_cast<std::int64_t>(e));
          pairs[e].push_back(pair);
        }
        std::vector<std::int64_t> offsets{0};
        std::vector<std::int64_t> order;
        for (const auto& mine : pairs) {
          order.insert(order.end(), mine.begin(), mine.end());
          offsets.push_back(static_cast<std::int64_t>(order.size()));
        }
        const Tensor experts =
            here(torch::tensor(chosen, dtype).view({tokens, active}));
        const ops::MoeDispatch got = ops::moe_dispatch(experts, count);
        EXPECT_EQ(numbers(got.offsets), offsets);
        EXPECT_EQ(numbers(got.order), order);
        EXPECT_EQ(got.offsets.scalar_type(), torch::kInt32);
        EXPECT_EQ(got.order.scalar_type(), torch::kInt32);
        const auto counts = numbers(ops::moe_counts(experts, count));
        ASSERT_EQ(counts.size(), pairs.size());
        for (size_t e = 0; e < pairs.size(); ++e) {
          EXPECT_EQ(counts[e], static_cast<std::int64_t>(pairs[e].size()));
        }
      }
    }
  }
}

// As if x were float32 from the start, although it is bfloat16 and autocast
// would have all of it so.
TEST_P(Moe, LogitsAreWide) {
  torch::manual_seed(3);
  struct Case {
    std::int64_t tokens, width, experts;
  };
  for (const auto [tokens, width, experts] :
       {Case{40, 96, 16},
        {1, 1024, 16},
        {37, 2056, 8},
        {333, 512, 64},
        {129, 40, 33},
        {1000, 4096, 16},
        {5001, 256, 2}}) {
    const Tensor x = here(torch::randn({1, tokens, width}).to(torch::kBFloat16))
                         .requires_grad_();
    const Tensor weight = here(torch::randn({experts, width})).requires_grad_();
    at::autocast::set_autocast_enabled(GetParam(), true);
    at::autocast::set_autocast_dtype(GetParam(), torch::kBFloat16);
    const Tensor logits = ops::moe_logits(x, weight);
    at::autocast::set_autocast_enabled(GetParam(), false);
    const Tensor grad = here(torch::randn({tokens, experts}));
    const auto grads = torch::autograd::grad({logits}, {x, weight}, {grad});
    EXPECT_EQ(grads[0].sizes(), x.sizes());

    const auto exact = [](const Tensor& t) {
      return t.detach().to(torch::kCPU, torch::kFloat64);
    };
    const Tensor rows = exact(x)[0];
    const Tensor w = exact(weight);
    const Tensor g = exact(grad);
    const auto check = [&](const char* name,
                           const Tensor& got,
                           const Tensor& left,
                           const Tensor& right,
                           torch::ScalarType dtype) {
      testing::expect_close(
          fmt::format("{} {} tokens, {} wide", name, tokens, width),
          got,
          left.matmul(right),
          left.abs().matmul(right.abs()),
          dtype,
          left.size(1));
    };
    check("logits", logits, rows, w.t(), torch::kFloat32);
    check("x", grads[0][0], g, w, torch::kBFloat16);
    check("weight", grads[1], g.t(), rows, torch::kFloat32);
  }
}

// A mixture of dense experts, and gradients of x, weight and gates.
std::vector<Tensor> run_dense(
    const Tensor& x,
    const Tensor& weight,
    const Tensor& gates,
    const Tensor& experts,
    const Tensor& grad) {
  const std::vector<Tensor> leaves{
      x.detach().requires_grad_(),
      weight.detach().requires_grad_(),
      gates.detach().requires_grad_()};
  const ops::MoeDispatch dispatch = ops::moe_dispatch(experts, weight.size(0));
  const Tensor y = ops::moe_combine(
      ops::moe_grouped_linear(
          ops::moe_gather(leaves[0], dispatch), leaves[1], dispatch.offsets),
      dispatch,
      leaves[2]);
  auto results = torch::autograd::grad({y}, leaves, {grad});
  results.insert(results.begin(), y.detach());
  return results;
}

// y[t] = sum_j gates[t,j] W[experts[t,j]] x[t], one pair after the other.
std::vector<Tensor> dense_definition(
    const Tensor& x,
    const Tensor& weight,
    const Tensor& gates,
    const Tensor& experts,
    const Tensor& grad) {
  const std::vector<Tensor> leaves{
      x.clone().requires_grad_(),
      weight.clone().requires_grad_(),
      gates.clone().requires_grad_()};
  const Tensor matrices =
      leaves[1]
          .index_select(0, experts.view({-1}))
          .view({x.size(0), -1, weight.size(1), weight.size(2)});
  const Tensor y =
      torch::einsum("tj,tjoi,ti->to", {leaves[2], matrices, leaves[0]});
  auto results = torch::autograd::grad({y}, leaves, {grad});
  results.insert(results.begin(), y.detach());
  return results;
}

TEST_P(Moe, DenseExpertsAgreeWithTheirDefinition) {
  base::Random random(7);
  for (const auto dtype :
       {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
    const auto wide =
        dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    for (const std::int64_t tokens : {1, 5, 300}) {
      // Experts 6 and 7 get nothing; 0 gets the most.
      std::vector<std::int64_t> chosen;
      for (std::int64_t t = 0; t < tokens; ++t) {
        chosen.push_back(0);
        chosen.push_back(1 + static_cast<std::int64_t>(random.below(5)));
      }
      const Tensor experts =
          torch::tensor(chosen, torch::kInt64).view({tokens, 2});
      const auto exact = [&](c10::IntArrayRef sizes, torch::ScalarType in) {
        return testing::normal(random, sizes).to(in).to(torch::kFloat64);
      };
      const Tensor x = exact({tokens, 24}, dtype);
      const Tensor weight = exact({8, 40, 24}, dtype);
      const Tensor gates = exact({tokens, 2}, wide);
      const Tensor grad = exact({tokens, 40}, dtype);
      const auto got = run_dense(
          here(x.to(dtype)),
          here(weight.to(dtype)),
          here(gates.to(wide)),
          here(experts),
          here(grad.to(dtype)));
      EXPECT_EQ(got[3].scalar_type(), wide);
      const auto expected = dense_definition(x, weight, gates, experts, grad);
      const auto magnitude = dense_definition(
          x.abs(), weight.abs(), gates.abs(), experts, grad.abs());
      const char* const names[] = {"y", "x", "weight", "gates"};
      for (size_t i = 0; i < got.size(); ++i) {
        testing::expect_close(
            fmt::format(
                "{} {} tokens {}", c10::toString(dtype), tokens, names[i]),
            got[i].to(dtype),
            expected[i],
            magnitude[i],
            dtype,
            tokens * 24);
      }
    }
  }
}

TEST_P(Moe, DenseExpertsRepeatThemselvesBitForBit) {
  torch::manual_seed(9);
  const auto dtype =
      GetParam() == torch::kCUDA ? torch::kBFloat16 : torch::kFloat32;
  const Tensor x = here(torch::randn({777, 64})).to(dtype);
  const Tensor weight = here(torch::randn({8, 64, 64})).to(dtype);
  const Tensor grad = here(torch::randn({777, 64})).to(dtype);
  const auto routing = ops::moe_route(here(torch::randn({777, 8})), 2);
  const auto run = [&] {
    return run_dense(x, weight, routing.gates, routing.experts, grad);
  };
  const auto first = run();
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto again = run();
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(torch::equal(first[i], again[i])) << i;
    }
  }
}

TEST_P(Moe, DenseExpertsTakeNoTokens) {
  const auto routing = ops::moe_route(here(torch::zeros({0, 8})), 2);
  const auto got = run_dense(
      here(torch::zeros({0, 16})),
      here(torch::zeros({8, 24, 16})),
      routing.gates,
      routing.experts,
      here(torch::zeros({0, 24})));
  EXPECT_EQ(got[0].sizes(), (std::vector<std::int64_t>{0, 24}));
  EXPECT_TRUE((got[2] == 0).all().item<bool>());
}

TEST(MoeErrors, SayWhatWasExpectedAndWhatCame) {
  const auto error_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  EXPECT_EQ(
      error_of([] { ops::moe_route(torch::zeros({3, 4}), 5); }),
      "[moe_route] expected active in 1 to 4 experts; got 5");
  EXPECT_EQ(
      error_of(
          [] { ops::moe_dispatch(torch::full({3, 2}, -1, torch::kInt32), 4); }),
      "[moe_dispatch] expected experts in [0, 4); got -1");
  EXPECT_EQ(
      error_of(
          [] { ops::moe_logits(torch::zeros({3, 4}), torch::zeros({8, 5})); }),
      "[moe_logits] expected x of size (..., d_in) and weight of size "
      "(experts, d_in); got (3, 4) and (8, 5)");
}

}  // namespace
}  // namespace einforge
