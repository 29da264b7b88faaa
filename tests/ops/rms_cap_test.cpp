#include "einforge/ops/rms_cap.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

// The definition, element by element.
Tensor definition(const Tensor& core, const Tensor& gamma, double max_rms) {
  const Tensor rms = core.square().mean().sqrt();
  return gamma * core / torch::clamp_min(rms / max_rms, 1.0);
}

struct Case {
  const char* name;
  torch::DeviceType device;
  torch::ScalarType dtype;
};

class RmsCap : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    RmsCap,
    ::testing::Values(
        Case{"cpu_float32", torch::kCPU, torch::kFloat32},
        Case{"cpu_float64", torch::kCPU, torch::kFloat64},
        Case{"cpu_bfloat16", torch::kCPU, torch::kBFloat16},
        Case{"cuda_float32", torch::kCUDA, torch::kFloat32},
        Case{"cuda_bfloat16", torch::kCUDA, torch::kBFloat16}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST_P(RmsCap, AgreesWithTheDefinition) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  base::Random random(1);
  for (const double max_rms : {0.05, 0.9, 1.1, 30.0}) {
    for (const auto& sizes : std::vector<std::vector<std::int64_t>>{
             {1}, {3, 5}, {4, 1, 7, 2, 3}, {64, 65}}) {
      const auto exact = [&](const Tensor& t) {
        return t.to(dtype).to(torch::kFloat64);
      };
      const Tensor core = exact(testing::normal(random, sizes));
      const Tensor gamma = exact(testing::normal(random, {}));
      const Tensor grad = exact(testing::normal(random, sizes));
      const auto differentiate =
          [&](const Tensor& c_, const Tensor& g_, auto f) {
            const Tensor c = c_.detach().requires_grad_();
            const Tensor g = g_.detach().requires_grad_();
            const Tensor y = f(c, g);
            auto grads = torch::autograd::grad(
                {y}, {c, g}, {grad.to(c.device(), c.scalar_type())});
            grads.insert(grads.begin(), y);
            return grads;
          };
      const auto actual = differentiate(
          core.to(device, dtype),
          gamma.to(device, dtype),
          [&](const Tensor& c, const Tensor& g) {
            return ops::rms_cap(c, g, max_rms);
          });
      const auto expected =
          differentiate(core, gamma, [&](const Tensor& c, const Tensor& g) {
            return definition(c, g, max_rms);
          });
      // Largest value times the sum's length bounds every element.
      const char* names[] = {" y", " grad of core", " grad of gamma"};
      const double bound = gamma.abs().item<double>() + 1;
      for (size_t i = 0; i < 3; ++i) {
        const Tensor magnitude =
            i < 2 ? expected[i].abs() +
                        (i == 1 ? bound * grad.abs() + 1 : 0 * grad)
                  : (core * grad).abs().sum();
        testing::expect_close(
            fmt::format("{} cap {}{}", name, max_rms, names[i]),
            actual[i],
            expected[i],
            magnitude,
            dtype,
            core.numel());
      }
    }
  }
}

TEST(RmsCap, LeavesACoreOfZerosAlone) {
  const Tensor core = torch::zeros({4, 4}).requires_grad_();
  const Tensor y = ops::rms_cap(core, std::nullopt, 0.1);
  EXPECT_TRUE(torch::equal(y, core));
  const auto grads = torch::autograd::grad({y.sum()}, {core});
  EXPECT_TRUE(torch::equal(grads[0], torch::ones({4, 4})));
}

TEST(RmsCap, KeepsTheCoresStrides) {
  const Tensor core =
      torch::randn({3, 4, 5}).permute({2, 0, 1}).requires_grad_();
  const Tensor y = ops::rms_cap(core, torch::ones({}), 0.1);
  EXPECT_EQ(y.strides(), core.strides());
  const auto grads = torch::autograd::grad({y.sum()}, {core});
  EXPECT_EQ(grads[0].strides(), core.strides());
}

TEST(RmsCap, CapsAtTheLimit) {
  const Tensor y = ops::rms_cap(torch::randn({100, 100}), std::nullopt, 0.25);
  EXPECT_NEAR(y.square().mean().sqrt().item<double>(), 0.25, 1e-6);
}

TEST(RmsCap, RejectsBadArguments) {
  EXPECT_THROW(ops::rms_cap(torch::ones({2}), std::nullopt, 0), c10::Error);
  EXPECT_THROW(ops::rms_cap(torch::ones({2}), torch::ones({2}), 1), c10::Error);
}

}  // namespace
}  // namespace einforge
