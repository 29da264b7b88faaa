#include "einforge/ops/gelu.h"

#include <numbers>

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::relative_error;
using testing::Tensor;

struct Operands {
  Tensor x;
  Tensor bias;  // may be undefined
  Tensor dy;
};

Operands random_operands(
    torch::TensorOptions like, std::vector<std::int64_t> sizes, bool bias) {
  return {
      .x = 2 * torch::randn(sizes, like),
      .bias = bias ? torch::randn({sizes.back()}, like.dtype(torch::kFloat32))
                   : Tensor(),
      .dy = torch::randn(sizes, like)};
}

struct Results {
  Tensor y;
  std::vector<Tensor> grads;  // of x and the bias
};

std::vector<Tensor> leaves_of(const Operands& o) {
  std::vector<Tensor> leaves{o.x.detach().requires_grad_()};
  if (o.bias.defined()) {
    leaves.push_back(o.bias.detach().requires_grad_());
  }
  return leaves;
}

Results run(const Operands& o) {
  const std::vector<Tensor> leaves = leaves_of(o);
  const Tensor y =
      ops::gelu(leaves[0], leaves.size() > 1 ? leaves[1] : Tensor());
  return {y.detach(), torch::autograd::grad({y}, leaves, {o.dy})};
}

// By the formula, in float64 on the CPU.
Results definition(const Operands& o) {
  const auto wide = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.detach().to(torch::kCPU, torch::kFloat64)
                            : tensor;
  };
  const Operands given{wide(o.x), wide(o.bias), wide(o.dy)};
  const std::vector<Tensor> leaves = leaves_of(given);
  const Tensor v = leaves.size() > 1 ? leaves[0] + leaves[1] : leaves[0];
  const Tensor y =
      0.5 * v *
      (1 + torch::tanh(
               std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v.pow(3))));
  return {y.detach(), torch::autograd::grad({y}, leaves, {given.dy})};
}

class Gelu : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(Gelu);

TEST_P(Gelu, AgreesWithTheFormula) {
  const testing::Poison poison;
  const std::int64_t many = GetParam() == torch::kCUDA ? 20'001 : 33;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto like = torch::dtype(dtype).device(GetParam());
    const bool is_half = dtype == torch::kBFloat16;
    for (const std::int64_t width : {1, 7, 8, 12, 100, 256, 1000, 4096, 5001}) {
      for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{9}, many}) {
        if (rows * width > 30'000'000) {
          continue;
        }
        const auto what = fmt::format("width {}, {} rows", width, rows);
        const Operands o =
            random_operands(like, {rows, width}, /*bias=*/rows != 9);
        const Results expected = definition(o);
        const Results got = run(o);
        ASSERT_EQ(got.y.scalar_type(), dtype);
        // On the CPU torch rounds the sum of x and the bias.
        EXPECT_LT(relative_error(got.y, expected.y), is_half ? 4e-3 : 1e-6)
            << what;
        EXPECT_LT(
            relative_error(got.grads[0], expected.grads[0]),
            is_half ? 6e-3 : 1e-6)
            << what;
        if (o.bias.defined()) {
          ASSERT_EQ(got.grads[1].scalar_type(), torch::kFloat32);
          const bool rounds = is_half && GetParam() == torch::kCPU;
          EXPECT_LT(
              relative_error(got.grads[1], expected.grads[1]),
              rounds ? 2e-2 : 1e-5)
              << what;
        }
        const Results again = run(o);
        EXPECT_TRUE(torch::equal(again.y, got.y)) << what;
        for (std::size_t i = 0; i < got.grads.size(); ++i) {
          EXPECT_TRUE(torch::equal(again.grads[i], got.grads[i])) << what;
        }
      }
    }
  }
}

// Where one factor underflows or overflows the value is still right.
TEST_P(Gelu, IsRightFarOut) {
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  const Tensor x = torch::cat(
      {torch::linspace(-12, 12, 4001, like),
       torch::tensor({-3e38, -1e13, -40.0, 40.0, 1e13, 3e38}, like)});
  const Tensor y = ops::gelu(x);
  const Tensor expected = torch::gelu(x.to(torch::kFloat64), "tanh");
  EXPECT_LT((y - expected).abs().max().item<double>(), 2e-6);
  const Operands o{.x = x.narrow(0, 0, 4001), .dy = torch::ones({4001}, like)};
  EXPECT_LT(
      (run(o).grads[0].cpu() - definition(o).grads[0])
          .abs()
          .max()
          .item<double>(),
      4e-6);
}

TEST_P(Gelu, TakesStridesOffsetsAndNoRows) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto like = torch::dtype(dtype).device(GetParam());
    Operands o = random_operands(like, {6, 3, 40}, /*bias=*/true);
    o.x = o.x.transpose(0, 1);
    o.dy = torch::randn({40}, like).expand({3, 6, 40});
    o.bias = torch::randn({41}, like.dtype(torch::kFloat32)).slice(0, 1);
    const Results got = run(o);
    const Results expected = definition(o);
    EXPECT_EQ(got.grads[0].sizes(), o.x.sizes());
    EXPECT_LT(relative_error(got.y, expected.y), 6e-3);
    EXPECT_LT(relative_error(got.grads[0], expected.grads[0]), 6e-3);
    EXPECT_LT(relative_error(got.grads[1], expected.grads[1]), 2e-2);
    o = random_operands(like, {9, 41}, /*bias=*/false);
    o.x = o.x.slice(1, 1);  // not aligned
    o.dy = o.dy.slice(1, 1);
    EXPECT_LT(relative_error(run(o).grads[0], definition(o).grads[0]), 6e-3);
    const Results none = run(random_operands(like, {0, 64}, /*bias=*/true));
    EXPECT_EQ(none.y.sizes(), (std::vector<std::int64_t>{0, 64}));
    EXPECT_TRUE((none.grads[1] == 0).all().item<bool>());
  }
}

TEST_P(Gelu, PassesNaNAndInfinityOn) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const auto like = torch::dtype(dtype).device(GetParam());
    Operands o = random_operands(like, {20, 128}, /*bias=*/true);
    o.x[7][3] = NAN;
    o.x[9][5] = INFINITY;
    o.dy[11][8] = NAN;
    const Results got = run(o);
    EXPECT_EQ(got.y.isnan().sum().item<std::int64_t>(), 1);
    EXPECT_TRUE(got.y[7][3].isnan().item<bool>());
    EXPECT_TRUE(got.y[9][5].isinf().item<bool>());
    const Tensor lost = got.grads[0].isnan();
    EXPECT_TRUE(lost[7][3].item<bool>());
    EXPECT_TRUE(lost[11][8].item<bool>());
    EXPECT_TRUE(got.grads[1].isnan()[3].item<bool>());
    EXPECT_TRUE(got.grads[1].isnan()[8].item<bool>());
    EXPECT_LE(got.grads[1].isnan().sum().item<std::int64_t>(), 3);
  }
}

// A gradient that is asked for with a graph is the same, and has a gradient.
TEST_P(Gelu, IsDifferentiableTwice) {
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  const Operands o = random_operands(like, {6, 16}, /*bias=*/true);
  const std::vector<Tensor> leaves = leaves_of(o);
  const Tensor y = ops::gelu(leaves[0].square(), leaves[1]);
  const auto gradients = [&](bool graph) {
    return torch::autograd::grad(
        {y}, leaves, {o.dy}, /*retain_graph=*/true, /*create_graph=*/graph);
  };
  const auto first = gradients(true);
  const auto plain = gradients(false);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LT((first[i] - plain[i]).abs().max().item<double>(), 2e-5) << i;
  }
  // Against a difference, along a random direction.
  const Tensor along = torch::randn_like(leaves[0]).to(torch::kFloat64);
  const double got =
      (torch::autograd::grad({first[1].sum()}, {leaves[0]})[0] * along)
          .sum()
          .item<double>();
  const auto value = [&](double step) {
    const Tensor x = (leaves[0].detach().to(torch::kFloat64) + step * along)
                         .square()
                         .requires_grad_();
    const Tensor bias = leaves[1].detach().to(torch::kFloat64).requires_grad_();
    return torch::autograd::grad(
               {torch::gelu(x + bias, "tanh")},
               {bias},
               {o.dy.to(torch::kFloat64)})[0]
        .sum()
        .item<double>();
  };
  EXPECT_NEAR(
      got, (value(1e-5) - value(-1e-5)) / 2e-5, 1e-3 * std::abs(got) + 1e-4);
}

}  // namespace
}  // namespace einforge
