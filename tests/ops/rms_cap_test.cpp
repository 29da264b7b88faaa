#include "einforge/ops/rms_cap.h"

#include <ATen/autocast_mode.h>

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

// The definition, element by element.
Tensor definition(const Tensor& core, const Tensor& gain, double max_rms) {
  const Tensor rms = core.square().mean().sqrt();
  return gain * core / torch::clamp_min(rms / max_rms, 1.0);
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
  std::vector<std::vector<std::int64_t>> all_sizes{
      {1}, {3, 5}, {4, 1, 7, 2, 3}, {64, 65}};
  if (device == torch::kCUDA) {
    all_sizes.push_back({1025, 1031});  // more than a vector a thread
  }
  for (const double max_rms : {0.05, 0.9, 1.1, 30.0}) {
    for (const auto& sizes : all_sizes) {
      const auto exact = [&](const Tensor& t) {
        return t.to(dtype).to(torch::kFloat64);
      };
      const Tensor core = exact(testing::normal(random, sizes));
      const Tensor gain = exact(testing::normal(random, {}));
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
          gain.to(device, dtype),
          [&](const Tensor& c, const Tensor& g) {
            return ops::rms_cap(c, g, max_rms);
          });
      const auto expected =
          differentiate(core, gain, [&](const Tensor& c, const Tensor& g) {
            return definition(c, g, max_rms);
          });
      // Largest value times the sum's length bounds every element.
      const char* names[] = {" y", " grad of core", " grad of gain"};
      const double bound = gain.abs().item<double>() + 1;
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

// What a layer in half precision reads: the result rounded once, and what comes
// back from it, however it lies in memory.
TEST_P(RmsCap, GivesAnotherDtype) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  const testing::Poison poison;
  torch::manual_seed(2);
  for (const std::int64_t size : {1, 5, 1000}) {
    const Tensor core =
        torch::randn({size, 7, 3}, torch::dtype(dtype).device(device))
            .permute({2, 0, 1})
            .requires_grad_();
    const Tensor gain =
        torch::full({1}, 1.3, core.options().requires_grad(false))
            .requires_grad_();
    const auto run = [&](std::optional<torch::ScalarType> as) {
      const Tensor y = ops::rms_cap(core, gain, 0.5, as);
      const Tensor grad = torch::ones_like(core, torch::kBFloat16)
                              .contiguous()
                              .to(y.scalar_type());
      auto result = torch::autograd::grad({y}, {core, gain}, {grad});
      result.push_back(y.detach());
      return result;
    };
    const auto wide = run(std::nullopt);
    const auto rounded = run(torch::kBFloat16);
    EXPECT_EQ(wide[2].scalar_type(), dtype);
    EXPECT_EQ(rounded[2].strides(), core.strides());
    EXPECT_TRUE(torch::equal(rounded[2], wide[2].to(torch::kBFloat16)));
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(rounded[i].scalar_type(), dtype);
      EXPECT_TRUE(torch::equal(rounded[i], wide[i])) << name << ' ' << i;
    }
    EXPECT_EQ(rounded[0].strides(), core.strides());
    EXPECT_EQ(rounded[1].sizes(), gain.sizes());
  }
}

TEST_P(RmsCap, IsOfAutocastsDtypeUnderIt) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  const Tensor core = torch::randn({30, 7}, torch::dtype(dtype).device(device));
  const bool was = at::autocast::is_autocast_enabled(device);
  at::autocast::set_autocast_enabled(device, true);
  const Tensor y = ops::rms_cap(core, std::nullopt, 0.5);
  at::autocast::set_autocast_enabled(device, was);
  const auto expected = dtype == torch::kFloat64
                            ? dtype
                            : at::autocast::get_autocast_dtype(device);
  EXPECT_EQ(y.scalar_type(), expected);
  // Rounded once, to that.
  EXPECT_TRUE(torch::equal(y, ops::rms_cap(core, std::nullopt, 0.5, expected)));
}

TEST_P(RmsCap, PassesNaNOn) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  Tensor core = torch::randn({300, 70}, torch::dtype(dtype).device(device));
  core[123][45] = NAN;
  const Tensor leaf = core.requires_grad_();
  const Tensor y = ops::rms_cap(leaf, std::nullopt, 0.5);
  EXPECT_TRUE(y.isnan().all().item<bool>());
  EXPECT_TRUE(
      torch::autograd::grad({y.sum()}, {leaf})[0].isnan().all().item<bool>());
}

TEST_P(RmsCap, LeavesACoreOfZerosAlone) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  const auto like = torch::dtype(dtype).device(device);
  const Tensor core = torch::zeros({4, 4}, like).requires_grad_();
  const Tensor y = ops::rms_cap(core, std::nullopt, 0.1);
  EXPECT_TRUE(torch::equal(y, core));
  const auto grads = torch::autograd::grad({y.sum()}, {core});
  EXPECT_TRUE(torch::equal(grads[0], torch::ones({4, 4}, like)));
}

TEST_P(RmsCap, TakesNoElementsAndGaps) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  const auto like = torch::dtype(dtype).device(device);
  EXPECT_EQ(
      ops::rms_cap(torch::zeros({0, 4}, like), std::nullopt, 0.1).numel(), 0);
  const Tensor all = torch::randn({9, 8}, like);
  const Tensor part = all.slice(1, 0, 8, 2).requires_grad_();
  const Tensor y = ops::rms_cap(part, std::nullopt, 0.5);
  EXPECT_TRUE(torch::allclose(
      y, ops::rms_cap(part.contiguous(), std::nullopt, 0.5), 0.01));
  EXPECT_TRUE(torch::autograd::grad({y.sum()}, {part})[0]
                  .isfinite()
                  .all()
                  .item<bool>());
}

TEST_P(RmsCap, KeepsTheCoresStrides) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  const auto like = torch::dtype(dtype).device(device);
  const Tensor core =
      torch::randn({3, 4, 5}, like).permute({2, 0, 1}).requires_grad_();
  const Tensor y = ops::rms_cap(core, torch::ones({}, like), 0.1);
  EXPECT_EQ(y.strides(), core.strides());
  const auto grads = torch::autograd::grad({y.sum()}, {core});
  EXPECT_EQ(grads[0].strides(), core.strides());
}

// Squares of these values leave the range of float32.
TEST_P(RmsCap, TakesTheWholeRangeOfFloat32) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  torch::manual_seed(4);
  for (const double magnitude : {1e-36, 1e-24, 1e-12, 1e12, 1e19, 1e28, 3e38}) {
    for (const double share : {0.01, 0.3, 4.0}) {  // of the magnitude: the cap
      for (const double grad_magnitude : {1e-15, 1.0, 1e15}) {
        const double max_rms = share * magnitude;
        const auto exact = [&](double scale) {
          return (scale * (2 * torch::rand({33, 65}, torch::kFloat64) - 1))
              .to(dtype);
        };
        const Tensor core = exact(magnitude);
        const Tensor grad = exact(grad_magnitude);
        const Tensor wide = core.to(torch::kFloat64).requires_grad_();
        const Tensor wide_gain =
            torch::full({}, 0.75, torch::kFloat64).requires_grad_();
        const Tensor expected = definition(wide, wide_gain, max_rms);
        const auto expected_grads = torch::autograd::grad(
            {expected}, {wide, wide_gain}, {grad.to(torch::kFloat64)});
        const Tensor leaf = core.to(device).requires_grad_();
        const Tensor gain =
            torch::full({1}, 0.75, leaf.options().requires_grad(false))
                .requires_grad_();
        const Tensor y = ops::rms_cap(leaf, gain, max_rms);
        const auto grads =
            torch::autograd::grad({y}, {leaf, gain}, {grad.to(device)});
        const double tolerance = dtype == torch::kBFloat16 ? 0.01 : 1e-5;
        const auto expect_near =
            [&](const char* what, const Tensor& actual, const Tensor& right) {
              const Tensor got = actual.detach().cpu().to(torch::kFloat64);
              // A result that float32 cannot hold is none of ours.
              const double largest = right.abs().max().item<double>();
              if (largest > 1e-36 && largest < 3e38) {
                EXPECT_LE(
                    (got - right.view_as(got)).abs().max().item<double>(),
                    tolerance * largest)
                    << name << ' ' << what << ' ' << magnitude << ' ' << share
                    << ' ' << grad_magnitude;
              }
            };
        expect_near("y", y, expected);
        expect_near("grad of core", grads[0], expected_grads[0]);
        expect_near("grad of gain", grads[1], expected_grads[1]);
      }
    }
  }
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
