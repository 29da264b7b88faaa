#include "einforge/ops/attention.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

class CausalAttention : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(CausalAttention);

// y and the gradients of q, k and v.
std::vector<Tensor> run(
    const std::vector<Tensor>& qkv, const Tensor& grad, double scale) {
  std::vector<Tensor> leaves;
  for (const Tensor& tensor : qkv) {
    leaves.push_back(tensor.detach().requires_grad_());
  }
  // As a model's tokens lie, (batch, time, heads, width).
  const auto heads_first = [](const Tensor& t) { return t.transpose(1, 2); };
  const Tensor y = ops::causal_attention(
      heads_first(leaves[0]),
      heads_first(leaves[1]),
      heads_first(leaves[2]),
      scale);
  std::vector<Tensor> results{y.detach()};
  for (const Tensor& found : torch::autograd::grad({y}, leaves, {grad})) {
    results.push_back(found);
  }
  return results;
}

std::vector<Tensor> definition(
    const std::vector<Tensor>& qkv, const Tensor& grad, double scale) {
  std::vector<Tensor> leaves;
  for (const Tensor& tensor : qkv) {
    leaves.push_back(
        tensor.detach().to(torch::kCPU, torch::kFloat64).requires_grad_());
  }
  const auto time = leaves[0].size(1);
  const Tensor scores =
      scale * torch::einsum("bthd,bshd->bhts", {leaves[0], leaves[1]});
  const Tensor later = torch::ones({time, time}, torch::kBool).triu(1);
  const Tensor y = torch::einsum(
      "bhts,bshd->bhtd",
      {scores.masked_fill(later, -INFINITY).softmax(-1), leaves[2]});
  std::vector<Tensor> results{y.detach()};
  for (const Tensor& found : torch::autograd::grad(
           {y}, leaves, {grad.to(torch::kCPU, torch::kFloat64)})) {
    results.push_back(found);
  }
  return results;
}

struct Case {
  std::int64_t batch;
  std::int64_t time;
  std::int64_t heads;
  std::int64_t width;
};

Case random_case(base::Random& random, bool small) {
  static const std::vector<std::int64_t> widths{8, 20, 48, 64, 80, 96, 128};
  return {
      1 + static_cast<std::int64_t>(random.below(small ? 2 : 6)),
      1 + static_cast<std::int64_t>(random.below(small ? 150 : 1100)),
      1 + static_cast<std::int64_t>(random.below(small ? 5 : 24)),
      widths[random.below(widths.size())]};
}

std::string name_of(const Case& c, torch::ScalarType dtype) {
  return fmt::format(
      "{} x {}, {} heads of {}, {}",
      c.batch,
      c.time,
      c.heads,
      c.width,
      c10::toString(dtype));
}

struct Operands {
  std::vector<Tensor> qkv;
  Tensor grad;
};

Operands random_operands(
    const Case& c, torch::Device device, torch::ScalarType dtype) {
  const auto like = torch::dtype(dtype).device(device);
  Operands o;
  for (int i = 0; i < 3; ++i) {
    o.qkv.push_back(torch::randn({c.batch, c.time, c.heads, c.width}, like));
  }
  o.grad = torch::randn({c.batch, c.heads, c.time, c.width}, like);
  return o;
}

TEST_P(CausalAttention, AgreesWithFloat64AtRandomSizes) {
  base::Random random(1);
  torch::manual_seed(1);
  for (int i = 0; i < 12; ++i) {
    const Case c = random_case(random, /*small=*/true);
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const Operands o = random_operands(c, GetParam(), dtype);
      const double scale = 8.0 / static_cast<double>(c.width);
      const auto got = run(o.qkv, o.grad, scale);
      const auto expected = definition(o.qkv, o.grad, scale);
      for (std::size_t n = 0; n < got.size(); ++n) {
        EXPECT_EQ(got[n].scalar_type(), dtype);
        EXPECT_LT(
            testing::relative_error(got[n], expected[n]),
            4 * testing::epsilon(dtype) + 2e-6)
            << name_of(c, dtype) << ", result " << n;
      }
    }
  }
}

// Also where the places of a head have more than two parts.
TEST_P(CausalAttention, RepeatsBitwiseAtRandomSizes) {
  if (GetParam() == torch::kCPU) {
    GTEST_SKIP() << "one order of sums";
  }
  base::Random random(2);
  torch::manual_seed(2);
  for (int i = 0; i < 24; ++i) {
    const Case c = random_case(random, /*small=*/false);
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      const Operands o = random_operands(c, GetParam(), dtype);
      const auto first = run(o.qkv, o.grad, 0.125);
      for (int again = 0; again < 3; ++again) {
        const auto other = run(o.qkv, o.grad, 0.125);
        for (std::size_t n = 0; n < first.size(); ++n) {
          EXPECT_TRUE(torch::equal(first[n], other[n]))
              << name_of(c, dtype) << ", result " << n;
        }
      }
    }
  }
}

TEST_P(CausalAttention, LeavesTorchsSettingsAsTheyWere) {
  torch::manual_seed(3);
  const Operands o =
      random_operands({1, 400, 2, 64}, GetParam(), torch::kBFloat16);
  at::Context& context = at::globalContext();
  for (const bool fill : {false, true}) {
    context.setDeterministicFillUninitializedMemory(fill);
    run(o.qkv, o.grad, 0.125);
    EXPECT_FALSE(context.deterministicAlgorithms());
    EXPECT_EQ(context.deterministicFillUninitializedMemory(), fill);
  }
  const testing::Poison poison;
  run(o.qkv, o.grad, 0.125);
  EXPECT_TRUE(context.deterministicAlgorithms());
  EXPECT_TRUE(context.deterministicAlgorithmsWarnOnly());
  EXPECT_TRUE(context.deterministicFillUninitializedMemory());
}

}  // namespace
}  // namespace einforge
