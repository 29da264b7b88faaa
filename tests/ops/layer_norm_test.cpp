#include "einforge/ops/layer_norm.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::relative_error;
using testing::Tensor;

struct Result {
  Tensor y;
  std::vector<Tensor> grads;
};

// By the formulas, in float64.
Result definition(const Tensor& x, const Tensor& gain, const Tensor& dy) {
  const Tensor wide = x.detach().to(torch::kFloat64).requires_grad_();
  const Tensor scale = gain.detach().to(torch::kFloat64).requires_grad_();
  const Tensor centred = wide - wide.mean(-1, true);
  const Tensor y =
      scale * centred / (centred.square().mean(-1, true) + 1e-5).sqrt();
  return {
      y.detach(),
      torch::autograd::grad({y}, {wide, scale}, {dy.to(torch::kFloat64)})};
}

Result run(const Tensor& x, const Tensor& gain, const Tensor& dy) {
  const Tensor here = x.detach().requires_grad_();
  const Tensor scale = gain.detach().requires_grad_();
  const Tensor y = ops::layer_norm(here, scale, {}, 1e-5);
  return {y.detach(), torch::autograd::grad({y}, {here, scale}, {dy})};
}

class LayerNorm : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(LayerNorm);

TEST_P(LayerNorm, AgreesWithTheFormulas) {
  for (const std::int64_t width : {8, 32, 64, 128, 256, 48, 512}) {
    // Rows that are not short are torch's, which on CUDA wants one dtype.
    if (GetParam() == torch::kCUDA && (width == 48 || width == 512)) {
      continue;
    }
    for (const std::int64_t rows : {1, 7, 4097}) {
      const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
      const Tensor x = 3 * torch::randn({rows, 3, width}, like) + 1;
      const Tensor dy = torch::randn({rows, 3, width}, like);
      const Tensor gain = torch::rand(
          {width}, torch::dtype(torch::kFloat32).device(GetParam()));
      const Result expected = definition(x, gain, dy);
      const Result got = run(x, gain, dy);
      EXPECT_EQ(got.y.scalar_type(), torch::kBFloat16);
      EXPECT_LT(relative_error(got.y, expected.y), 3e-3)
          << width << ", " << rows;
      EXPECT_LT(relative_error(got.grads[0], expected.grads[0]), 4e-3) << width;
      if (GetParam() == torch::kCUDA) {  // torch's, on the CPU, is 10% off
        EXPECT_LT(relative_error(got.grads[1], expected.grads[1]), 4e-3)
            << width;
      }
      const Result again = run(x, gain, dy);
      EXPECT_TRUE(torch::equal(again.grads[0], got.grads[0]));
      EXPECT_TRUE(torch::equal(again.grads[1], got.grads[1]));
    }
  }
}

TEST_P(LayerNorm, TakesStridesAndPassesNaNOn) {
  const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
  Tensor x = torch::randn({5, 64, 9}, like).transpose(1, 2);
  const Tensor gain =
      torch::ones({64}, torch::dtype(torch::kFloat32).device(GetParam()));
  const Tensor dy = torch::randn({5, 9, 64}, like);
  EXPECT_LT(
      relative_error(run(x, gain, dy).y, definition(x, gain, dy).y), 3e-3);
  x[2][3][4] = NAN;
  const Tensor lost = run(x, gain, dy).y.isnan().all(-1);
  EXPECT_TRUE(lost[2][3].item<bool>());
  EXPECT_EQ(lost.sum().item<std::int64_t>(), 1);
}

// Rows whose squares leave the range of float32, among others.
TEST_P(LayerNorm, TakesLargeRows) {
  const bool is_cuda = GetParam() == torch::kCUDA;
  const auto like = torch::dtype(is_cuda ? torch::kBFloat16 : torch::kFloat32)
                        .device(GetParam());
  for (const std::int64_t width : {8, 64, 256}) {
    Tensor x = torch::randn({6, width}, like);
    x[1] *= 1e12;
    x[2] *= 1e19;
    x[3] *= 1e25;
    x[4] *= 1e38 / x[4].abs().max().to(torch::kFloat32).item<double>();
    x[5].fill_(3e38);
    const Tensor gain = torch::rand({width}, like.dtype(torch::kFloat32));
    const Tensor dy = torch::randn({6, width}, like);
    const Result expected = definition(x, gain, dy);
    const Result got = run(x, gain, dy);
    const double tolerance = is_cuda ? 1e-2 : 1e-4;
    for (std::int64_t row = 0; row < 5; ++row) {
      EXPECT_LT(relative_error(got.y[row], expected.y[row]), tolerance) << row;
      // Gradients of the largest are below the smallest of float32.
      if (row < 4) {
        EXPECT_LT(
            relative_error(
                got.grads[0][row] * 1e10, expected.grads[0][row] * 1e10),
            tolerance)
            << row;
      }
    }
    EXPECT_EQ(got.y[5].abs().max().item<double>(), 0);
    EXPECT_LT(relative_error(got.grads[1], expected.grads[1]), tolerance);
  }
}

TEST_P(LayerNorm, IsDifferentiableTwice) {
  const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
  const Tensor x = torch::randn({6, 16}, like).requires_grad_();
  const Tensor gain =
      torch::ones({16}, torch::dtype(torch::kFloat32).device(GetParam()))
          .requires_grad_();
  const Tensor y = ops::layer_norm(x, gain, {}, 1e-5);
  const Tensor first = torch::autograd::grad(
      {y.square().sum()}, {x}, {}, /*retain_graph=*/true, true)[0];
  const Tensor second =
      torch::autograd::grad({first.square().sum()}, {gain})[0];
  EXPECT_TRUE(second.isfinite().all().item<bool>());
  EXPECT_GT(second.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace einforge
