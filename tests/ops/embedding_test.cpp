#include "einforge/ops/embedding.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

class Embedding : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(Embedding);

Tensor gradient(const Tensor& weight, const Tensor& index, const Tensor& grad) {
  const Tensor leaf = weight.detach().requires_grad_();
  const Tensor y = ops::embedding(leaf, index);
  EXPECT_TRUE(torch::equal(
      y.detach().cpu(),
      weight.cpu().index_select(0, index.cpu().flatten()).view(y.sizes())));
  return torch::autograd::grad({y}, {leaf}, {grad})[0];
}

// Few rows and many tokens are where torch's own gradient is not repeated.
TEST_P(Embedding, AgreesWithFloat64AndRepeatsAtRandomSizes) {
  base::Random random(5);
  torch::manual_seed(5);
  for (int i = 0; i < 24; ++i) {
    const auto rows = 1 + static_cast<std::int64_t>(random.below(400));
    const auto width = 1 + static_cast<std::int64_t>(random.below(1500));
    const auto tokens = 1 + static_cast<std::int64_t>(random.below(9000));
    const Tensor weight = torch::randn({rows, width}, GetParam());
    // Some rows are frequent, as symbols of a text are.
    const Tensor index =
        (torch::rand({tokens}, GetParam()).pow(3) * static_cast<double>(rows))
            .to(torch::kInt64);
    const Tensor grad = torch::randn({tokens, width}, GetParam());
    const Tensor got = gradient(weight, index, grad);
    const Tensor wide = grad.cpu().to(torch::kFloat64);
    const auto sum = [&](const Tensor& values) {
      return torch::zeros({rows, width}, torch::kFloat64)
          .index_add_(0, index.cpu(), values);
    };
    testing::expect_close(
        fmt::format("{} of {} rows, {} wide", tokens, rows, width),
        got,
        sum(wide),
        sum(wide.abs()),
        torch::kFloat32,
        tokens);
    for (int again = 0; again < 3; ++again) {
      EXPECT_TRUE(torch::equal(got, gradient(weight, index, grad)))
          << tokens << " of " << rows << " rows, " << width << " wide";
    }
  }
}

TEST_P(Embedding, AddsPositions) {
  torch::manual_seed(7);
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  for (const std::int64_t width : {1, 4, 12, 30, 128, 1000}) {
    for (const auto dtype : {torch::kInt64, torch::kInt32}) {
      // Of a larger table, not from its beginning.
      const Tensor weight = torch::randn({50, width}, like).requires_grad_();
      const Tensor table = torch::randn({40, width}, like).requires_grad_();
      const Tensor index =
          torch::randint(50, {33, 6}, like.dtype(dtype)).transpose(0, 1);
      const Tensor y = ops::embedding(weight, index, table.narrow(0, 3, 33));
      const Tensor expected = weight.detach()
                                  .index_select(0, index.flatten())
                                  .view({6, 33, width}) +
                              table.detach().narrow(0, 3, 33);
      EXPECT_TRUE(torch::equal(y.detach(), expected)) << width;
      const Tensor grad = torch::randn({6, 33, width}, like);
      const auto gradients = [&] {
        return torch::autograd::grad(
            {y}, {weight, table}, {grad}, /*retain_graph=*/true);
      };
      const auto got = gradients();
      EXPECT_TRUE(torch::allclose(
          got[0],
          torch::zeros_like(weight).index_add_(
              0, index.flatten(), grad.view({-1, width})),
          1e-5,
          1e-5));
      EXPECT_TRUE(
          torch::allclose(got[1].narrow(0, 3, 33), grad.sum(0), 1e-5, 1e-5));
      EXPECT_EQ(got[1].narrow(0, 0, 3).abs().max().item<double>(), 0);
      const auto again = gradients();
      EXPECT_TRUE(torch::equal(got[0], again[0]));
      EXPECT_TRUE(torch::equal(got[1], again[1]));
    }
  }
}

TEST_P(Embedding, TakesAnyShapeOfIndices) {
  torch::manual_seed(6);
  const Tensor weight = torch::randn({7, 12}, GetParam());
  for (const auto& sizes :
       std::vector<std::vector<std::int64_t>>{{}, {0}, {3, 4}, {2, 3, 5}}) {
    const Tensor index = torch::randint(
        7, sizes, torch::dtype(torch::kInt64).device(GetParam()));
    auto y_sizes = sizes;
    y_sizes.push_back(12);
    const Tensor grad = torch::randn(y_sizes, GetParam());
    const Tensor expected = torch::zeros_like(weight).index_add_(
        0, index.flatten(), grad.view({-1, 12}));
    EXPECT_TRUE(torch::allclose(gradient(weight, index, grad), expected));
  }
}

}  // namespace
}  // namespace einforge
