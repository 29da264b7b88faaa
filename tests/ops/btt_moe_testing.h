#pragma once

#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/btt_moe_table.h"
#include "tests/ops/testing.h"

// What the tests of btt_moe_linear share: a float64 loop over all experts,
// random operands and choices, and every kernel of a device's table.
namespace einforge::testing::moe {

using ops::ForcedKernel;
using structure::Sizes;
using testing::Tensor;

struct Operands {
  Tensor x;
  Tensor core_a;
  Tensor core_b;
  Tensor experts;
  Tensor gates;
  Tensor grad;  // of the output

  // The gates stay wide.
  Operands to(torch::Device device, torch::ScalarType dtype) const {
    const auto wide =
        dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    return {
        x.to(device, dtype),
        core_a.to(device, dtype),
        core_b.to(device, dtype),
        experts.to(device),
        gates.to(device, wide),
        grad.to(device, dtype)};
  }

  Operands abs() const {
    return {
        x.abs(), core_a.abs(), core_b.abs(), experts, gates.abs(), grad.abs()};
  }
};

struct Results {
  Tensor y;
  Tensor x;
  Tensor core_a;
  Tensor core_b;
  Tensor gates;
};

inline Results run(const Operands& o) {
  const Tensor y =
      ops::btt_moe_linear(o.x, o.core_a, o.core_b, o.experts, o.gates);
  const auto [x, a, b, gates] = ops::btt_moe_linear_backward(
      o.grad,
      o.x,
      o.core_a,
      o.core_b,
      o.experts,
      o.gates,
      {true, true, true, true});
  return {y, x, a, b, gates};
}

// The definition: every expert for every token, weighted with its gate or with
// zero; gradients by torch's own derivative.
inline Results reference(const Operands& o, const Sizes& s) {
  const auto leaf = [](const Tensor& t) {
    return t.detach().clone().requires_grad_();
  };
  const Tensor x = leaf(o.x);
  const Tensor a = leaf(o.core_a);
  const Tensor b = leaf(o.core_b);
  const Tensor gates = leaf(o.gates);
  const Tensor split = x.reshape({-1, s.alpha, s.beta, s.gamma});
  Tensor y = torch::zeros({split.size(0), s.d_out()}, torch::kFloat64);
  for (std::int64_t e = 0; e < a.size(0); ++e) {
    const Tensor weight = ((o.experts == e) * gates).sum(1, /*keepdim=*/true);
    const Tensor z = torch::einsum("tabg,agdfr->tbgdfr", {split, a[e]});
    y = y + weight * torch::einsum("tbgdfr,bgefr->tdef", {z, b[e]})
                         .reshape({-1, s.d_out()});
  }
  const auto grads =
      torch::autograd::grad({y}, {x, a, b, gates}, {o.grad.reshape(y.sizes())});
  return {y.detach(), grads[0], grads[1], grads[2], grads[3]};
}

enum class Choice { kUniform, kZipf, kOnePopular, kFirst };

// (tokens, active), distinct in a row.
inline Tensor choose(
    base::Random& random,
    Choice choice,
    std::int64_t tokens,
    std::int64_t count,
    std::int64_t active) {
  Tensor experts = torch::empty({tokens, active}, torch::kInt32);
  auto out = experts.accessor<std::int32_t, 2>();
  std::vector<double> keys(static_cast<size_t>(count));
  std::vector<std::int32_t> order(static_cast<size_t>(count));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (size_t e = 0; e < keys.size(); ++e) {
      order[e] = static_cast<std::int32_t>(e);
      // The smallest exponential of rate w comes with probability ~ w.
      const double rank = static_cast<double>(e + 1);
      const double rate = choice == Choice::kUniform ? 1
                          : choice == Choice::kZipf  ? 1 / rank
                          : e == keys.size() / 2     ? 1e9
                                                     : 1;
      keys[e] = choice == Choice::kFirst
                    ? rank
                    : -std::log1p(-random.uniform()) / rate;
    }
    std::partial_sort(
        order.begin(),
        order.begin() + active,
        order.end(),
        [&](std::int32_t i, std::int32_t j) {
          return keys[static_cast<size_t>(i)] < keys[static_cast<size_t>(j)];
        });
    for (std::int64_t j = 0; j < active; ++j) {
      out[t][j] = order[static_cast<size_t>(j)];
    }
  }
  return experts;
}

// In float64, exact in `dtype` (the gates in float32).
inline Operands random_operands(
    base::Random& random,
    const Sizes& s,
    std::int64_t count,
    const Tensor& experts,
    torch::ScalarType dtype) {
  const std::int64_t tokens = experts.size(0);
  const Operands o{
      testing::normal(random, {tokens, s.d_in()}),
      testing::normal(random, {count, s.alpha, s.gamma, s.delta, s.phi, s.rho}),
      testing::normal(
          random, {count, s.beta, s.gamma, s.epsilon, s.phi, s.rho}),
      experts,
      testing::normal(random, experts.sizes()),
      testing::normal(random, {tokens, s.d_out()})};
  return o.to(torch::kCPU, dtype).to(torch::kCPU, torch::kFloat64);
}

// What a problem should give, and the sums of absolute values.
struct Expected {
  Operands exact;
  Results values;
  Results magnitudes;

  Expected(const Operands& operands, const Sizes& s)
      : exact(operands),
        values(reference(operands, s)),
        magnitudes(reference(operands.abs(), s)) {}
};

inline void compare(
    const std::string& what,
    const Results& got,
    const Expected& expected,
    const Sizes& s,
    torch::ScalarType dtype) {
  const Operands& exact = expected.exact;
  const std::int64_t terms = exact.x.size(0) * s.d_in() * s.rho;
  const auto check = [&](const char* name, Tensor Results::*part) {
    testing::expect_close(
        what + " " + name,
        (got.*part).to(dtype),
        expected.values.*part,
        expected.magnitudes.*part,
        dtype,
        terms);
  };
  check("y", &Results::y);
  check("x", &Results::x);
  check("core_a", &Results::core_a);
  check("core_b", &Results::core_b);
  check("gates", &Results::gates);
  EXPECT_EQ(got.y.scalar_type(), dtype);
  EXPECT_EQ(got.x.scalar_type(), dtype);
  EXPECT_EQ(got.core_a.scalar_type(), dtype);
  EXPECT_EQ(got.core_b.scalar_type(), dtype);
  EXPECT_EQ(
      got.gates.scalar_type(),
      dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
}

inline const Sizes kMonarch{8, 1, 8, 1, 8, 8, 1};

inline const std::vector<Sizes>& some_sizes() {
  static const std::vector<Sizes> sizes{
      kMonarch,
      {4, 1, 6, 1, 5, 3, 2},    // nothing a multiple of anything
      {1, 6, 4, 5, 1, 3, 2},    // the same family by the other order
      {24, 1, 1, 1, 20, 1, 3},  // low rank
      {2, 3, 2, 3, 2, 2, 2},    // any theta
      {1, 1, 1, 1, 1, 1, 1}};
  return sizes;
}

struct Device {
  torch::DeviceType type;
  std::span<const ops::BttMoeKernel> (*kernels)();
};

inline void expect_equal(
    const std::string& what, const Results& got, const Results& expected) {
  EXPECT_TRUE(torch::equal(got.y, expected.y)) << what << " y";
  EXPECT_TRUE(torch::equal(got.x, expected.x)) << what << " x";
  EXPECT_TRUE(torch::equal(got.core_a, expected.core_a)) << what << " core_a";
  EXPECT_TRUE(torch::equal(got.core_b, expected.core_b)) << what << " core_b";
  EXPECT_TRUE(torch::equal(got.gates, expected.gates)) << what << " gates";
}

class BttMoe : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { EINFORGE_NEEDS(GetParam().type); }

  // Each kernel that takes it, in each dtype.
  template <typename Check>
  void for_each_kernel(
      const Sizes& s,
      std::int64_t tokens,
      std::int64_t count,
      std::int64_t active,
      std::vector<torch::ScalarType> dtypes,
      Check check) {
    for (const auto& kernel : GetParam().kernels()) {
      for (const auto dtype : dtypes) {
        ops::BttMoeProblem problem{
            .expert =
                {.sizes = s,
                 .tokens = tokens,
                 .dtype = dtype,
                 .device = GetParam().type},
            .experts = count,
            .active = active};
        bool supported = kernel.supports(problem);
        problem.expert.pass = ops::Pass::kBackward;
        supported = supported && kernel.supports(problem);
        if (supported) {
          const ForcedKernel forced{std::string(kernel.name)};
          check(
              fmt::format(
                  "{} {} {}",
                  kernel.name,
                  c10::toString(dtype),
                  problem.to_string()),
              dtype);
        }
      }
    }
  }

  // Sizes that all kernels of the device take.
  Sizes monarch() const {
    return GetParam().type == torch::kCPU ? kMonarch
                                          : Sizes{32, 1, 32, 1, 32, 32, 1};
  }

  void compare_all(
      base::Random& random,
      const Sizes& s,
      Choice choice,
      std::int64_t tokens,
      std::int64_t count,
      std::int64_t active,
      std::vector<torch::ScalarType> dtypes) {
    const Tensor experts = choose(random, choice, tokens, count, active);
    for (const auto dtype : dtypes) {
      const Expected expected(
          random_operands(random, s, count, experts, dtype), s);
      const Operands here = expected.exact.to(GetParam().type, dtype);
      for_each_kernel(
          s,
          tokens,
          count,
          active,
          {dtype},
          [&](const std::string& what, torch::ScalarType) {
            const Poison poison;
            compare(what, run(here), expected, s, dtype);
          });
    }
  }
};

#define EINFORGE_ON_DEVICES(Fixture)                                           \
  INSTANTIATE_TEST_SUITE_P(                                                    \
      Devices,                                                                 \
      Fixture,                                                                 \
      ::testing::Values(                                                       \
          moe::Device{torch::kCPU, ops::cpu_moe_kernels},                      \
          moe::Device{torch::kCUDA, ops::cuda_moe_kernels}),                   \
      [](const auto& tested) {                                                 \
        return std::string(tested.param.type == torch::kCPU ? "cpu" : "cuda"); \
      })

}  // namespace einforge::testing::moe
