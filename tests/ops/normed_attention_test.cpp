#include "einforge/ops/attention.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::relative_error;
using testing::Tensor;

constexpr double kEpsilon = 1e-5;

struct Case {
  std::int64_t batch;
  std::int64_t time;
  std::int64_t heads;
  std::int64_t width = 64;
  bool biases = true;

  std::string to_string() const {
    return fmt::format(
        "{} x {}, {} heads of {}{}",
        batch,
        time,
        heads,
        width,
        biases ? ", biases" : "");
  }
};

struct Operands {
  std::vector<Tensor> inputs;  // q, k, v, gains, and biases where there are
  Tensor dy;
};

Operands random_operands(
    const Case& c, torch::Device device, torch::ScalarType dtype) {
  const auto wide = torch::dtype(torch::kFloat32).device(device);
  const auto like = wide.dtype(dtype);
  const std::vector<std::int64_t> sizes{c.batch, c.time, c.heads * c.width};
  Operands o;
  for (int i = 0; i < 3; ++i) {
    o.inputs.push_back(2 * torch::randn(sizes, like) + 0.5);
  }
  for (int i = 0; i < 2; ++i) {
    o.inputs.push_back(1 + 0.3 * torch::randn({c.width}, wide));
  }
  for (int i = 0; i < 3 && c.biases; ++i) {
    o.inputs.push_back(torch::randn({sizes[2]}, wide));
  }
  o.dy = torch::randn(sizes, like);
  return o;
}

std::vector<Tensor> leaves_of(const Operands& o) {
  std::vector<Tensor> leaves;
  for (const Tensor& tensor : o.inputs) {
    leaves.push_back(tensor.detach().requires_grad_());
  }
  return leaves;
}

Tensor attend(const std::vector<Tensor>& leaves) {
  const auto bias = [&](std::size_t i) {
    return leaves.size() > 5 ? leaves[5 + i] : Tensor();
  };
  return ops::normed_attention(
      {.q = {leaves[0], bias(0)},
       .k = {leaves[1], bias(1)},
       .v = {leaves[2], bias(2)},
       .q_gain = leaves[3],
       .k_gain = leaves[4],
       .epsilon = kEpsilon,
       .scale = 8.0 / static_cast<double>(leaves[3].size(0))});
}

// y and the gradients of the inputs.
std::vector<Tensor> run(const Operands& o) {
  const std::vector<Tensor> leaves = leaves_of(o);
  const Tensor y = attend(leaves);
  std::vector<Tensor> results{y.detach()};
  for (const Tensor& found : torch::autograd::grad({y}, leaves, {o.dy})) {
    results.push_back(found);
  }
  return results;
}

// By the formulas, in float64 on the CPU.
std::vector<Tensor> definition(const Operands& given) {
  Operands o;
  for (const Tensor& tensor : given.inputs) {
    o.inputs.push_back(tensor.detach().to(torch::kCPU, torch::kFloat64));
  }
  const std::vector<Tensor> leaves = leaves_of(o);
  const std::int64_t width = leaves[3].size(0);
  const auto heads = [&](std::size_t i) {
    const Tensor x = leaves.size() > 5 ? leaves[i] + leaves[5 + i] : leaves[i];
    return x.unflatten(-1, {-1, width});
  };
  const auto normed = [&](std::size_t i) {
    const Tensor x = heads(i);
    const Tensor centred = x - x.mean(-1, true);
    return leaves[3 + i] * centred /
           (centred.square().mean(-1, true) + kEpsilon).sqrt();
  };
  const std::int64_t time = leaves[0].size(1);
  const Tensor scores =
      8.0 / static_cast<double>(width) *
      torch::einsum("bthd,bshd->bhts", {normed(0), normed(1)});
  const Tensor later = torch::ones({time, time}, torch::kBool).triu(1);
  const Tensor y =
      torch::einsum(
          "bhts,bshd->bthd",
          {scores.masked_fill(later, -INFINITY).softmax(-1), heads(2)})
          .flatten(-2);
  std::vector<Tensor> results{y.detach()};
  for (const Tensor& found : torch::autograd::grad(
           {y}, leaves, {given.dy.to(torch::kCPU, torch::kFloat64)})) {
    results.push_back(found);
  }
  return results;
}

class NormedAttention : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(NormedAttention);

TEST_P(NormedAttention, AgreesWithFloat64) {
  const testing::Poison poison;
  const bool is_cuda = GetParam() == torch::kCUDA;
  std::vector<Case> cases{
      {2, 1, 3},
      {1, 5, 1},
      {2, 16, 2},
      {1, 17, 5},
      {3, 40, 2, 64, /*biases=*/false},
      {1, 130, 2},     // longer than the kernel takes
      {2, 33, 3, 32},  // narrower
  };
  if (is_cuda) {
    cases.insert(
        cases.end(),
        {{210, 40, 3},  // more sequences than groups
         {2, 64, 12},
         {3, 100, 7, 64, /*biases=*/false},
         {2, 127, 4},
         {9, 128, 16},
         {1, 128, 200}});
  }
  for (const Case& c : cases) {
    for (const auto dtype : {torch::kBFloat16, torch::kFloat32}) {
      if (is_cuda && dtype == torch::kFloat32 && c.heads > 5) {
        continue;
      }
      const auto what =
          fmt::format("{}, {}", c.to_string(), c10::toString(dtype));
      const Operands o = random_operands(c, GetParam(), dtype);
      const auto got = run(o);
      const auto expected = definition(o);
      const bool is_half = dtype == torch::kBFloat16;
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i].sizes(), expected[i].sizes());
        EXPECT_EQ(got[i].scalar_type(), i < 4 ? dtype : torch::kFloat32);
        // Of one row, queries and keys have no gradient; and what rows give to
        // the bias of keys (7) is nearly zero in sum.
        const double tolerance = !is_half ? 2e-5
                                 : i == 0 ? 1e-2
                                 : i == 7 ? 1e-1
                                          : 3e-2;
        if (c.time > 1 || i == 0 || i == 3) {
          EXPECT_LT(relative_error(got[i], expected[i]), tolerance)
              << what << ", result " << i;
        }
      }
      const auto again = run(o);
      for (std::size_t i = 0; i < got.size(); ++i) {
        EXPECT_TRUE(torch::equal(got[i], again[i])) << what << ", result " << i;
      }
    }
  }
}

TEST_P(NormedAttention, TakesStridesAndOffsets) {
  Operands o = random_operands({3, 20, 2}, GetParam(), torch::kBFloat16);
  const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
  o.inputs[0] = torch::randn({20, 3, 128}, like).transpose(0, 1);
  o.inputs[1] = torch::randn({3, 20, 130}, like).slice(2, 1, 129);
  o.dy = torch::randn({20, 1, 1}, like).expand({20, 3, 128}).transpose(0, 1);
  o.inputs[5] = torch::randn({129}, like.dtype(torch::kFloat32)).slice(0, 1);
  const auto got = run(o);
  const auto expected = definition(o);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(relative_error(got[i], expected[i]), i == 7 ? 1e-1 : 3e-2) << i;
  }
}

// Of one sequence, from its place on; others stay as they are.
TEST_P(NormedAttention, PassesNaNOn) {
  Operands o = random_operands({2, 50, 2}, GetParam(), torch::kBFloat16);
  o.inputs[0][1][20][3] = NAN;
  const auto got = run(o);
  const Tensor lost = got[0].isnan().unflatten(-1, {2, 64}).all(-1);
  EXPECT_EQ(lost.sum().item<std::int64_t>(), 1);
  EXPECT_TRUE(lost[1][20][0].item<bool>());
  EXPECT_TRUE(got[1][1][20].narrow(0, 0, 64).isnan().all().item<bool>());
  EXPECT_FALSE(got[1][0].isnan().any().item<bool>());
}

TEST_P(NormedAttention, DoesNotLookAhead) {
  const Operands o = random_operands({1, 100, 1}, GetParam(), torch::kBFloat16);
  Operands changed = o;
  for (std::size_t i = 0; i < 3; ++i) {
    changed.inputs[i] = o.inputs[i].clone();
    changed.inputs[i].narrow(1, 61, 39).normal_();
  }
  const Tensor y = run(o)[0];
  const Tensor z = run(changed)[0];
  EXPECT_TRUE(torch::equal(y.narrow(1, 0, 61), z.narrow(1, 0, 61)));
  EXPECT_FALSE(torch::equal(y.narrow(1, 61, 39), z.narrow(1, 61, 39)));
}

// A gradient that is asked for with a graph is the same, and has a gradient.
TEST_P(NormedAttention, IsDifferentiableTwice) {
  if (GetParam() == torch::kCPU) {
    GTEST_SKIP() << "torch's own";
  }
  const Operands o = random_operands({2, 20, 2}, GetParam(), torch::kBFloat16);
  const std::vector<Tensor> leaves = leaves_of(o);
  const Tensor y = attend(leaves);
  const auto gradients = [&](bool graph) {
    return torch::autograd::grad(
        {y}, leaves, {o.dy}, /*retain_graph=*/true, /*create_graph=*/graph);
  };
  const auto first = gradients(true);
  const auto plain = gradients(false);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LT(
        relative_error(first[i], plain[i].cpu().to(torch::kFloat64)), 3e-2)
        << i;
  }
  const Tensor second =
      torch::autograd::grad({first[0].square().sum()}, {leaves[3]})[0];
  EXPECT_TRUE(second.isfinite().all().item<bool>());
  EXPECT_GT(second.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace einforge
