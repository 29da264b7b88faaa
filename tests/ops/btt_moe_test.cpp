// A mixture of einsum layers against a float64 loop over all experts.
#include "einforge/ops/btt_moe_linear.h"

#include <tuple>

#include "einforge/ops/btt_moe_table.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

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

Results run(const Operands& o) {
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
Results reference(const Operands& o, const Sizes& s) {
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
    y = y +
        weight * torch::einsum("tabg,agdfr,bgefr->tdef", {split, a[e], b[e]})
                     .reshape({-1, s.d_out()});
  }
  const auto grads =
      torch::autograd::grad({y}, {x, a, b, gates}, {o.grad.reshape(y.sizes())});
  return {y.detach(), grads[0], grads[1], grads[2], grads[3]};
}

enum class Choice { kUniform, kZipf, kOnePopular, kFirst };

// (tokens, active), distinct in a row.
Tensor choose(
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
Operands random_operands(
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

void compare(
    const std::string& what,
    const Results& got,
    const Operands& exact,
    const Sizes& s,
    torch::ScalarType dtype) {
  const Results expected = reference(exact, s);
  const Results size = reference(exact.abs(), s);
  const std::int64_t terms = exact.x.size(0) * s.d_in() * s.rho;
  const auto check = [&](const char* name, Tensor Results::*part) {
    testing::expect_close(
        what + " " + name,
        (got.*part).to(dtype),
        expected.*part,
        size.*part,
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

struct Device {
  torch::DeviceType type;
  std::span<const ops::BttMoeKernel> (*kernels)();
};

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

  void compare_all(
      base::Random& random,
      const Sizes& s,
      Choice choice,
      std::int64_t tokens,
      std::int64_t count,
      std::int64_t active,
      std::vector<torch::ScalarType> dtypes) {
    const Tensor experts = choose(random, choice, tokens, count, active);
    for_each_kernel(
        s,
        tokens,
        count,
        active,
        std::move(dtypes),
        [&](const std::string& what, torch::ScalarType dtype) {
          const Operands exact =
              random_operands(random, s, count, experts, dtype);
          compare(what, run(exact.to(GetParam().type, dtype)), exact, s, dtype);
        });
  }
};

INSTANTIATE_TEST_SUITE_P(
    Devices,
    BttMoe,
    ::testing::Values(
        Device{torch::kCPU, ops::cpu_moe_kernels},
        Device{torch::kCUDA, ops::cuda_moe_kernels}),
    [](const auto& tested) {
      return std::string(tested.param.type == torch::kCPU ? "cpu" : "cuda");
    });

const Sizes kMonarch{8, 1, 8, 1, 8, 8, 1};

const std::vector<Sizes>& some_sizes() {
  static const std::vector<Sizes> sizes{
      kMonarch,
      {4, 1, 6, 1, 5, 3, 2},    // nothing a multiple of anything
      {1, 6, 4, 5, 1, 3, 2},    // the same family by the other order
      {24, 1, 1, 1, 20, 1, 3},  // low rank
      {2, 3, 2, 3, 2, 2, 2},    // any theta
      {1, 1, 1, 1, 1, 1, 1}};
  return sizes;
}

TEST_P(BttMoe, AgreesWithALoopOverExperts) {
  base::Random random(3);
  for (const std::int64_t count : {2, 8, 16, 64}) {
    for (const std::int64_t active : {1, 2, 4}) {
      if (active > count) {
        continue;
      }
      for (const std::int64_t tokens : {1, 2, 31, 64, 65, 200}) {
        compare_all(
            random,
            kMonarch,
            Choice::kUniform,
            tokens,
            count,
            active,
            {torch::kFloat32, torch::kBFloat16});
      }
    }
  }
}

TEST_P(BttMoe, TakesAnySizes) {
  base::Random random(5);
  for (const Sizes& s : some_sizes()) {
    for (const std::int64_t tokens : {1, 70}) {
      compare_all(
          random,
          s,
          Choice::kUniform,
          tokens,
          8,
          2,
          {torch::kFloat64, torch::kFloat32, torch::kBFloat16});
    }
  }
}

TEST_P(BttMoe, TakesManyTokensOffTheTiles) {
  base::Random random(7);
  for (const auto [tokens, count, active] :
       {std::array<std::int64_t, 3>{5000, 16, 2},
        {3001, 64, 4},
        {1023, 2, 2}}) {
    compare_all(
        random,
        kMonarch,
        Choice::kUniform,
        tokens,
        count,
        active,
        {torch::kFloat32, torch::kBFloat16});
  }
}

TEST_P(BttMoe, DropsNothingHoweverUnevenTheChoice) {
  base::Random random(11);
  for (const Choice choice :
       {Choice::kZipf, Choice::kOnePopular, Choice::kFirst}) {
    for (const std::int64_t active : {1, 2}) {
      compare_all(random, kMonarch, choice, 777, 16, active, {torch::kFloat32});
    }
  }
}

}  // namespace
}  // namespace einforge
