#include "einforge/ops/einsum_linear.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::expect_close;
using testing::Results;
using testing::Tensor;
using testing::Values;

enum class Strides { kContiguous, kLayout, kSliced };

// The operator's outputs and gradients for operands of any strides.
Results run(const Values& v, const Sizes& sizes, Strides strides) {
  const auto arrange = [&](const Tensor& tensor) {
    // Every other element of a longer last dimension.
    return strides == Strides::kSliced
               ? torch::stack({tensor, tensor + 1}, -1).select(-1, 0)
               : tensor;
  };
  const auto leaf = [&](const Tensor& t) {
    return arrange(t).detach().requires_grad_();
  };
  const bool layout = strides == Strides::kLayout;
  const Tensor x = leaf(v.x);
  const Tensor a =
      leaf(layout ? ops::core_a_layout(v.core_a, sizes) : v.core_a);
  const Tensor b =
      leaf(layout ? ops::core_b_layout(v.core_b, sizes) : v.core_b);
  const Tensor bias = leaf(v.bias);
  const Tensor y = ops::einsum_linear(x, a, b, bias);
  const auto grads =
      torch::autograd::grad({y}, {x, a, b, bias}, {arrange(v.grad)});
  return {y, grads[0], grads[1], grads[2], grads[3]};
}

void compare(
    const std::string& what,
    const Values& exact,
    const Sizes& s,
    torch::Device device,
    torch::ScalarType dtype,
    Strides strides) {
  const Results actual = run(exact.to(device, dtype), s, strides);
  const Results expected = testing::reference(exact, s);
  const Results magnitude =
      testing::reference(exact.map([](const Tensor& t) { return t.abs(); }), s);
  const std::int64_t tokens = exact.x.numel() / s.d_in();
  const std::int64_t forward = s.alpha * s.beta * s.gamma * s.rho * s.rho + 1;
  const std::int64_t backward = s.delta * s.epsilon * s.phi * s.rho * s.rho;
  expect_close(what + " y", actual.y, expected.y, magnitude.y, dtype, forward);
  expect_close(
      what + " grad of x", actual.x, expected.x, magnitude.x, dtype, backward);
  expect_close(
      what + " grad of core_a",
      actual.core_a,
      expected.core_a,
      magnitude.core_a,
      dtype,
      tokens * backward);
  expect_close(
      what + " grad of core_b",
      actual.core_b,
      expected.core_b,
      magnitude.core_b,
      dtype,
      tokens * forward);
  expect_close(
      what + " grad of bias",
      actual.bias,
      expected.bias,
      magnitude.bias,
      dtype,
      tokens);
}

struct Case {
  const char* name;
  torch::DeviceType device;
  torch::ScalarType dtype;
};

class EinsumLinear : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Dtypes,
    EinsumLinear,
    ::testing::Values(
        Case{"cpu_float32", torch::kCPU, torch::kFloat32},
        Case{"cpu_float64", torch::kCPU, torch::kFloat64},
        Case{"cpu_bfloat16", torch::kCPU, torch::kBFloat16},
        Case{"cpu_float16", torch::kCPU, torch::kFloat16},
        Case{"cuda_float32", torch::kCUDA, torch::kFloat32},
        Case{"cuda_float64", torch::kCUDA, torch::kFloat64},
        Case{"cuda_float16", torch::kCUDA, torch::kFloat16},
        Case{"cuda_bfloat16", torch::kCUDA, torch::kBFloat16}),
    [](const auto& tested) { return std::string(tested.param.name); });

// At least 300 points of (theta, d_in, d_out, batch) for each dtype.
TEST_P(EinsumLinear, AgreesWithTheDefinitionAtRandomPoints) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  base::Random random(7);
  const std::vector<std::vector<std::int64_t>> batches{
      {}, {0}, {1}, {3}, {17}, {2, 5}, {1, 40}, {3, 0}, {130}};
  constexpr int kPoints = 320;
  for (int point = 0; point < kPoints && !HasFailure(); ++point) {
    const structure::Structure layer = testing::random_structure(random);
    const auto batch = batches[random.below(batches.size())];
    const auto strides = static_cast<Strides>(random.below(3));
    const Values exact =
        testing::random_values(random, layer.sizes, batch, dtype);
    compare(
        fmt::format(
            "{} point {}: {} {} batch ({})",
            name,
            point,
            layer.spec.text,
            testing::describe(layer.sizes),
            fmt::join(batch, ", ")),
        exact,
        layer.sizes,
        device,
        dtype,
        strides);
  }
}

// Sizes that no theta asks for: all of them small and unequal, so that an
// exchanged index cannot go unseen, and every one of them 1 in turn.
TEST_P(EinsumLinear, AgreesWithTheDefinitionAtCorners) {
  const auto& [name, device, dtype] = GetParam();
  EINFORGE_NEEDS(device);
  base::Random random(11);
  for (int ones = 0; ones < 128 && !HasFailure(); ++ones) {
    const auto size = [&](int index, std::int64_t value) {
      return (ones >> index & 1) != 0 ? 1 : value;
    };
    const Sizes s{
        .alpha = size(0, 3),
        .beta = size(1, 2),
        .gamma = size(2, 5),
        .delta = size(3, 4),
        .epsilon = size(4, 7),
        .phi = size(5, 3),
        .rho = size(6, 2)};
    compare(
        fmt::format("{} {}", name, testing::describe(s)),
        testing::random_values(random, s, {5}, dtype),
        s,
        device,
        dtype,
        static_cast<Strides>(ones % 3));
  }
}

// (f(x + h u) - f(x - h u)) / 2h against the gradient along u.
TEST(EinsumLinearGradient, AgreesWithFiniteDifferencesInFloat64) {
  base::Random random(3);
  constexpr double kStep = 1e-4;
  for (int point = 0; point < 40; ++point) {
    const structure::Structure layer = testing::random_structure(random);
    const Values v =
        testing::random_values(random, layer.sizes, {3}, torch::kFloat64);
    const auto loss = [&](const std::vector<Tensor>& t) {
      return (ops::einsum_linear(t[0], t[1], t[2], t[3]) * v.grad)
          .sum()
          .item<double>();
    };
    const Results analytic = run(v, layer.sizes, Strides::kContiguous);
    const std::vector<Tensor> operands{v.x, v.core_a, v.core_b, v.bias};
    const std::vector<Tensor> grads{
        analytic.x, analytic.core_a, analytic.core_b, analytic.bias};
    for (size_t i = 0; i < operands.size(); ++i) {
      const Tensor direction = testing::normal(random, operands[i].sizes());
      auto ahead = operands;
      auto behind = operands;
      ahead[i] = operands[i] + kStep * direction;
      behind[i] = operands[i] - kStep * direction;
      // The layer is linear in each operand: no error but that of rounding.
      const double numeric = (loss(ahead) - loss(behind)) / (2 * kStep);
      const double scale = (grads[i] * direction).abs().sum().item<double>();
      EXPECT_NEAR(
          numeric,
          (grads[i] * direction).sum().item<double>(),
          1e-8 * (scale + 1))
          << layer.spec.text << " " << testing::describe(layer.sizes)
          << " operand " << i;
    }
  }
}

TEST(EinsumLinearGradient, HasASecondDerivative) {
  base::Random random(5);
  const Sizes s{2, 3, 2, 2, 3, 2, 2};
  const Values v = testing::random_values(random, s, {4}, torch::kFloat64);
  const auto second = [&](auto&& layer) {
    const Tensor x = v.x.detach().requires_grad_();
    const Tensor a = v.core_a.detach().requires_grad_();
    const Tensor b = v.core_b.detach().requires_grad_();
    const Tensor y = layer(x, a, b);
    const auto first = torch::autograd::grad(
        {(y * v.grad).sum()}, {x}, {}, std::nullopt, /*create_graph=*/true);
    const auto grads = torch::autograd::grad({first[0].square().sum()}, {a, b});
    return torch::cat({grads[0].reshape(-1), grads[1].reshape(-1)});
  };
  const Tensor actual = second(
      [](auto& x, auto& a, auto& b) { return ops::einsum_linear(x, a, b); });
  const Tensor expected = second([&](auto& x, auto& a, auto& b) {
    return torch::einsum(
               "tabg,agdfr,bgefr->tdef",
               {x.view({-1, s.alpha, s.beta, s.gamma}), a, b})
        .reshape({-1, s.d_out()});
  });
  EXPECT_TRUE(torch::allclose(actual, expected, 1e-10, 1e-10));
}

TEST(EinsumLinearGradient, ComputesWhatTheMaskAsksFor) {
  base::Random random(9);
  for (const Sizes& s :
       {Sizes{4, 1, 3, 1, 5, 2, 2}, Sizes{2, 2, 2, 3, 2, 2, 1}}) {
    const Values v = testing::random_values(random, s, {6}, torch::kFloat32)
                         .to(torch::kCPU, torch::kFloat32);
    const auto all = ops::einsum_linear_backward(
        v.grad, v.x, v.core_a, v.core_b, {true, true, true, true});
    for (unsigned bits = 0; bits < 16; ++bits) {
      const std::array<bool, 4> mask{
          (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
      const auto some =
          ops::einsum_linear_backward(v.grad, v.x, v.core_a, v.core_b, mask);
      const auto check =
          [&](bool asked, const Tensor& one, const Tensor& full) {
            if (asked) {
              EXPECT_TRUE(torch::equal(one, full)) << "mask " << bits;
            } else {
              EXPECT_EQ(one.numel(), 0) << "mask " << bits;
            }
          };
      check(mask[0], std::get<0>(some), std::get<0>(all));
      check(mask[1], std::get<1>(some), std::get<1>(all));
      check(mask[2], std::get<2>(some), std::get<2>(all));
      check(mask[3], std::get<3>(some), std::get<3>(all));
    }
  }
}

TEST(EinsumLinearLayout, KeepsValuesAndCostsNoCopy) {
  base::Random random(13);
  for (int point = 0; point < 50; ++point) {
    const Sizes s = testing::random_structure(random).sizes;
    const Values v = testing::random_values(random, s, {2}, torch::kFloat64);
    const Tensor a = ops::core_a_layout(v.core_a, s);
    const Tensor b = ops::core_b_layout(v.core_b, s);
    EXPECT_TRUE(torch::equal(a, v.core_a));
    EXPECT_TRUE(torch::equal(b, v.core_b));
    EXPECT_EQ(ops::core_a_layout(a, s).data_ptr(), a.data_ptr());
    EXPECT_EQ(ops::core_b_layout(b, s).data_ptr(), b.data_ptr());
    // Gradients lie as their cores do, so that accumulating needs no copy.
    const auto grads = ops::einsum_linear_backward(
        v.grad, v.x, a, b, {true, true, true, true});
    EXPECT_EQ(std::get<1>(grads).strides(), a.strides());
    EXPECT_EQ(std::get<2>(grads).strides(), b.strides());
  }
}

TEST(EinsumLinearMeta, InfersShapesWithoutData) {
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const Tensor x = torch::empty({2, 7, 24}, meta).requires_grad_();
  const Tensor a = torch::empty({2, 4, 5, 2, 3}, meta).requires_grad_();
  const Tensor b = torch::empty({3, 4, 6, 2, 3}, meta).requires_grad_();
  const Tensor y = ops::einsum_linear(x, a, b);
  EXPECT_EQ(y.sizes(), (std::vector<std::int64_t>{2, 7, 60}));
  const auto grads = torch::autograd::grad({y}, {x, a, b}, {y});
  EXPECT_EQ(grads[0].sizes(), x.sizes());
  EXPECT_EQ(grads[1].sizes(), a.sizes());
  EXPECT_EQ(grads[2].sizes(), b.sizes());
  EXPECT_TRUE(grads[0].is_meta());
}

class EinsumLinearAutocast : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(EinsumLinearAutocast);

TEST_P(EinsumLinearAutocast, RunsInItsDtypeAndReturnsFloat32Gradients) {
  base::Random random(17);
  const Sizes s{8, 1, 4, 1, 4, 8, 2};
  const Values v = testing::random_values(random, s, {9}, torch::kFloat32)
                       .to(GetParam(), torch::kFloat32);
  const Tensor x = v.x.detach().requires_grad_();
  const Tensor a = v.core_a.detach().requires_grad_();
  Tensor y;
  {
    const testing::Autocast autocast(GetParam());
    y = ops::einsum_linear(x, a, v.core_b, v.bias);
  }
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  const Values low = v.to(GetParam(), torch::kBFloat16);
  EXPECT_TRUE(torch::equal(
      y, ops::einsum_linear(low.x, low.core_a, low.core_b, low.bias)));
  const auto grads = torch::autograd::grad({y}, {x, a}, {low.grad});
  EXPECT_EQ(grads[0].scalar_type(), torch::kFloat32);
  EXPECT_EQ(grads[1].scalar_type(), torch::kFloat32);
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(EinsumLinearErrors, SayWhatWasExpectedAndWhatCame) {
  const Tensor x = torch::zeros({32, 24});
  const Tensor a = torch::zeros({2, 4, 5, 2, 3});
  const Tensor b = torch::zeros({3, 4, 6, 2, 3});
  const auto error = [](const Tensor& x_,
                        const Tensor& a_,
                        const Tensor& b_,
                        const std::optional<Tensor>& bias = std::nullopt) {
    return error_of([&] { ops::einsum_linear(x_, a_, b_, bias); });
  };
  EXPECT_EQ(
      error(torch::zeros({32, 25}), a, b),
      "[einsum_linear] expected x of size (..., 24); got (32, 25)");
  EXPECT_EQ(
      error(x, a.squeeze(0).flatten(), b),
      "[einsum_linear] expected cores of five dimensions (in, gamma, out, phi, "
      "rho); got core_a of size (240) and core_b of size (3, 4, 6, 2, 3)");
  EXPECT_EQ(
      error(x, a, torch::zeros({3, 4, 6, 2, 4})),
      "[einsum_linear] expected cores of equal gamma, phi and rho (dimensions "
      "1, 3 and 4); got core_a of size (2, 4, 5, 2, 3) and core_b of size (3, "
      "4, 6, 2, 4)");
  EXPECT_EQ(
      error(x, torch::zeros({0, 4, 5, 2, 3}), b),
      "[einsum_linear] expected cores of sizes at least 1; got core_a of size "
      "(0, 4, 5, 2, 3) and core_b of size (3, 4, 6, 2, 3)");
  EXPECT_EQ(
      error(x.to(torch::kFloat64), a, b),
      "[einsum_linear] expected cores of x's dtype Double on cpu; got Float on "
      "cpu");
  EXPECT_EQ(
      error(x.to(torch::kInt64), a.to(torch::kInt64), b.to(torch::kInt64)),
      "[einsum_linear] expected x of a floating-point dtype; got Long");
  EXPECT_EQ(
      error(x, a, b, torch::zeros({59})),
      "[einsum_linear] expected bias of size (60); got (59)");
  EXPECT_EQ(
      error(x, a, b, torch::zeros({60}, torch::kFloat64)),
      "[einsum_linear] expected bias of x's dtype Float on cpu; got Double on "
      "cpu");
  EXPECT_EQ(
      error_of([&] {
        ops::einsum_linear_backward(
            torch::zeros({32, 61}), x, a, b, {true, true, true, true});
      }),
      "[einsum_linear_backward] expected grad of size (32, 60); got (32, 61)");
}

}  // namespace
}  // namespace einforge
