#include "einforge/ops/dense_linear.h"

#include <array>

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

// Parameters' gradients are as exact as float32 sums of bfloat16 products.
TEST(DenseLinear, GradientsAgreeWithFloat64OnCuda) {
  EINFORGE_NEEDS(torch::kCUDA);
  torch::manual_seed(3);
  for (const auto& [tokens, d_in, d_out] :
       std::vector<std::array<std::int64_t, 3>>{
           {1, 8, 8}, {257, 48, 40}, {5000, 63, 96}, {4096, 512, 96}}) {
    for (const bool with_bias : {true, false}) {
      const std::string what = fmt::format("{} {} {}", tokens, d_in, d_out);
      const auto like = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
      const Tensor x = torch::randn({tokens, d_in}, like).requires_grad_();
      // What bfloat16 holds, so that the casts are exact.
      const auto parameter = [&](std::vector<std::int64_t> sizes) {
        return torch::randn(sizes, like).to(torch::kFloat32).requires_grad_();
      };
      const Tensor weight = parameter({d_out, d_in});
      const Tensor bias = with_bias ? parameter({d_out}) : Tensor();
      const Tensor grad = torch::randn({1, tokens, d_out}, like);
      Tensor y;
      {
        const testing::Autocast autocast(torch::kCUDA);
        y = ops::dense_linear(
            x.unsqueeze(0),
            weight,
            with_bias ? std::make_optional(bias) : std::nullopt);
      }
      y.backward(grad);
      const auto wide = [](const Tensor& t) {
        return t.detach().cpu().to(torch::kFloat64);
      };
      const Tensor xs = wide(x);
      const Tensor ws = wide(weight);
      const Tensor gs = wide(grad)[0];
      const Tensor b =
          with_bias ? wide(bias) : torch::zeros({d_out}, xs.options());
      testing::expect_close(
          what + " y",
          wide(y).to(torch::kBFloat16)[0],
          xs.mm(ws.t()) + b,
          xs.abs().mm(ws.t().abs()) + b.abs(),
          torch::kBFloat16,
          d_in);
      testing::expect_close(
          what + " dx",
          x.grad().cpu(),
          gs.mm(ws),
          gs.abs().mm(ws.abs()),
          torch::kBFloat16,
          d_out);
      testing::expect_close(
          what + " dweight",
          weight.grad().cpu(),
          gs.t().mm(xs),
          gs.t().abs().mm(xs.abs()),
          torch::kFloat32,
          tokens);
      if (with_bias) {
        testing::expect_close(
            what + " dbias",
            bias.grad().cpu(),
            gs.sum(0),
            gs.abs().sum(0),
            torch::kFloat32,
            tokens);
      }
    }
  }
}

TEST(DenseLinear, IsTorchsOnTheCpu) {
  const Tensor x = torch::linspace(-1, 1, 24).view({2, 3, 4});
  const Tensor weight = torch::linspace(-2, 3, 20).view({5, 4});
  const Tensor bias = torch::linspace(0, 1, 5);
  EXPECT_TRUE(torch::equal(
      ops::dense_linear(x, weight, bias), torch::linear(x, weight, bias)));
  EXPECT_TRUE(
      torch::equal(ops::dense_linear(x, weight), torch::linear(x, weight)));
}

}  // namespace
}  // namespace einforge
