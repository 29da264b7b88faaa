#include "einforge/ops/residual_norm.h"

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::relative_error;
using testing::Tensor;

constexpr double kScale = 0.7;
constexpr double kEpsilon = 1e-5;

struct Operands {
  Tensor x;
  Tensor branch;  // may be undefined, as may the biases
  Tensor branch_bias;
  Tensor gain;
  Tensor bias;
  Tensor dsum;
  std::vector<Tensor> dnormed;  // of each reader

  std::vector<Tensor> leaves() const {
    std::vector<Tensor> all{x, gain};
    for (const Tensor& tensor : {branch, branch_bias, bias}) {
      if (tensor.defined()) {
        all.push_back(tensor);
      }
    }
    return all;
  }
};

Operands random_operands(
    torch::DeviceType device,
    std::vector<std::int64_t> sizes,
    bool branch = true,
    bool bias = true,
    std::size_t readers = 1) {
  const auto wide = torch::dtype(torch::kFloat32).device(device);
  const auto half = wide.dtype(torch::kBFloat16);
  const std::int64_t width = sizes.back();
  Operands o{
      .x = 3 * torch::randn(sizes, wide) + 1,
      .branch = branch ? torch::randn(sizes, half) : Tensor(),
      .branch_bias = branch && bias ? torch::randn({width}, wide) : Tensor(),
      .gain = torch::randn({width}, wide),
      .bias = bias ? torch::randn({width}, wide) : Tensor(),
      .dsum = torch::randn(sizes, wide)};
  for (std::size_t i = 0; i < readers; ++i) {
    o.dnormed.push_back(torch::randn(sizes, half));
  }
  for (Tensor& leaf : o.leaves()) {
    leaf.requires_grad_();
  }
  return o;
}

struct Results {
  Tensor sum;
  Tensor normed;
  std::vector<Tensor> grads;  // of the leaves
};

enum class Given { kBoth, kSum, kNormed };

std::vector<Tensor> differentiate(
    const Operands& o,
    const Tensor& sum,
    const std::vector<Tensor>& normed,
    Given given) {
  std::vector<Tensor> outputs;
  std::vector<Tensor> grads;
  if (given != Given::kNormed) {
    outputs.push_back(sum);
    grads.push_back(o.dsum.to(sum.scalar_type()));
  }
  if (given != Given::kSum) {
    for (std::size_t i = 0; i < normed.size(); ++i) {
      outputs.push_back(normed[i]);
      grads.push_back(o.dnormed[i].to(normed[i].scalar_type()));
    }
  }
  return torch::autograd::grad(
      outputs,
      o.leaves(),
      grads,
      /*retain_graph=*/std::nullopt,
      /*create_graph=*/false,
      /*allow_unused=*/true);
}

ops::ResidualNorm norm(const Operands& o) {
  return ops::residual_norm(
      o.x,
      {o.branch, o.branch_bias},
      kScale,
      o.gain,
      o.bias,
      kEpsilon,
      o.dnormed.size());
}

Results run(const Operands& o, Given given = Given::kBoth) {
  const auto [sum, normed] = norm(o);
  return {
      sum.detach(), normed[0].detach(), differentiate(o, sum, normed, given)};
}

// By the formulas, in float64.
Results definition(const Operands& o, Given given = Given::kBoth) {
  Operands wide = o;
  for (Tensor* tensor :
       {&wide.x, &wide.branch, &wide.branch_bias, &wide.gain, &wide.bias}) {
    if (tensor->defined()) {
      *tensor = tensor->detach().to(torch::kFloat64).requires_grad_();
    }
  }
  Tensor sum = wide.x + 0;
  if (wide.branch.defined()) {
    sum = sum + kScale * wide.branch;
  }
  if (wide.branch_bias.defined()) {
    sum = sum + kScale * wide.branch_bias;
  }
  const Tensor centred = sum - sum.mean(-1, true);
  Tensor normed =
      wide.gain * centred / (centred.square().mean(-1, true) + kEpsilon).sqrt();
  if (wide.bias.defined()) {
    normed = normed + wide.bias;
  }
  return {
      sum.detach(),
      normed.detach(),
      differentiate(
          wide, sum, std::vector<Tensor>(o.dnormed.size(), normed), given)};
}

class ResidualNorm : public testing::DeviceTest {};

EINFORGE_ON_EACH_DEVICE(ResidualNorm);

TEST_P(ResidualNorm, AgreesWithTheFormulasUnderAutocast) {
  const testing::Poison poison;
  const auto many = [](std::int64_t width) {
    return GetParam() == torch::kCUDA ? (width == 512 ? 20'001 : 1033) : 65;
  };
  for (const std::int64_t width :
       {4, 36, 128, 256, 512, 516, 768, 1024, 1536, 2048, 3000, 4096, 5000}) {
    for (const std::int64_t rows : {1, 7, many(width)}) {
      for (const bool branch : {true, false}) {
        const auto what = fmt::format(
            "width {}, {} rows{}", width, rows, branch ? ", branch" : "");
        const Operands o = random_operands(
            GetParam(), {rows, width}, branch, /*bias=*/rows != 7);
        const Results expected = definition(o);
        const testing::Autocast autocast(GetParam());
        const Results got = run(o);
        EXPECT_EQ(got.sum.scalar_type(), torch::kFloat32) << what;
        EXPECT_EQ(got.normed.scalar_type(), torch::kBFloat16) << what;
        // Where there is no kernel, the branch and its bias are added in
        // bfloat16.
        const bool rounds = (GetParam() == torch::kCPU || width > 4096) &&
                            o.branch_bias.defined();
        EXPECT_LT(relative_error(got.sum, expected.sum), rounds ? 2e-3 : 1e-6)
            << what;
        EXPECT_LT(relative_error(got.normed, expected.normed), 3e-3) << what;
        for (std::size_t i = 0; i < expected.grads.size(); ++i) {
          EXPECT_EQ(got.grads[i].scalar_type(), o.leaves()[i].scalar_type());
          EXPECT_LT(
              relative_error(got.grads[i], expected.grads[i]),
              got.grads[i].scalar_type() == torch::kBFloat16 ? 4e-3
              : rounds                                       ? 2e-2
                                                             : 1e-5)
              << what << ", gradient " << i;
        }
        const Results again = run(o);
        EXPECT_TRUE(torch::equal(again.normed, got.normed)) << what;
        for (std::size_t i = 0; i < expected.grads.size(); ++i) {
          EXPECT_TRUE(torch::equal(again.grads[i], got.grads[i])) << what;
        }
      }
    }
  }
}

TEST_P(ResidualNorm, TakesEitherGradientAlone) {
  const Operands o = random_operands(GetParam(), {3, 50, 64});
  const testing::Autocast autocast(GetParam());
  for (const Given given : {Given::kSum, Given::kNormed}) {
    const Results got = run(o, given);
    const Results expected = definition(o, given);
    for (std::size_t i = 0; i < expected.grads.size(); ++i) {
      ASSERT_EQ(got.grads[i].defined(), expected.grads[i].defined()) << i;
      if (expected.grads[i].defined()) {
        EXPECT_LT(relative_error(got.grads[i], expected.grads[i]), 4e-3) << i;
      }
    }
  }
}

// What several readers give is added in float32 on CUDA, whatever their number.
TEST_P(ResidualNorm, AddsWhatReadersGive) {
  const std::int64_t rows = GetParam() == torch::kCUDA ? 1030 : 33;
  for (const std::size_t readers : {1, 2, 3, 4, 5}) {
    for (const std::int64_t width : {64, 768, 1024, 4096}) {
      const auto what = fmt::format("width {}, {} readers", width, readers);
      const Operands o = random_operands(
          GetParam(), {rows, width}, /*branch=*/true, /*bias=*/true, readers);
      const Results expected = definition(o);
      const testing::Autocast autocast(GetParam());
      const Results got = run(o);
      const bool sums = GetParam() == torch::kCUDA;
      for (std::size_t i = 0; i < expected.grads.size(); ++i) {
        EXPECT_LT(
            relative_error(got.grads[i], expected.grads[i]), sums ? 4e-3 : 2e-2)
            << what << ", gradient " << i;
      }
      if (sums && readers != 2 && readers != 5) {
        EXPECT_LT(relative_error(got.grads[0], expected.grads[0]), 1e-5)
            << what;
        EXPECT_LT(relative_error(got.grads[3], expected.grads[3]), 1e-5)
            << what;
      }
      const Results again = run(o);
      for (std::size_t i = 0; i < expected.grads.size(); ++i) {
        EXPECT_TRUE(torch::equal(again.grads[i], got.grads[i])) << what;
      }
    }
  }
  // One of three gives nothing.
  const Operands o = random_operands(
      GetParam(), {40, 64}, /*branch=*/true, /*bias=*/true, /*readers=*/3);
  Operands fewer = o;
  fewer.dnormed.pop_back();
  const testing::Autocast autocast(GetParam());
  const auto [sum, normed] = norm(o);
  const auto got =
      differentiate(fewer, sum, {normed[0], normed[1]}, Given::kBoth);
  const Results expected = definition(fewer);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(relative_error(got[i], expected.grads[i]), 2e-2) << i;
  }
}

TEST_P(ResidualNorm, IsTorchsWithoutAutocast) {
  Operands o = random_operands(GetParam(), {50, 64});
  o.branch_bias = Tensor();
  const auto [sum, normed] = norm(o);
  EXPECT_TRUE(torch::equal(sum, torch::add(o.x, o.branch, kScale)));
  EXPECT_TRUE(torch::equal(
      normed[0], torch::layer_norm(sum, {64}, o.gain, o.bias, kEpsilon)));
}

TEST_P(ResidualNorm, TakesStridesOffsetsAndNoRows) {
  const testing::Autocast autocast(GetParam());
  Operands o = random_operands(GetParam(), {6, 40, 9});
  const auto transposed = [](const Tensor& tensor) {
    return tensor.detach().transpose(1, 2).requires_grad_();
  };
  o.x = transposed(o.x);
  o.branch = transposed(o.branch);
  o.dsum = o.dsum.transpose(1, 2);
  o.dnormed[0] = o.dnormed[0].transpose(1, 2);
  o.branch_bias = Tensor();
  const auto like = torch::dtype(torch::kFloat32).device(GetParam());
  o.gain = torch::randn({41}, like).slice(0, 1).requires_grad_();
  o.bias = Tensor();
  const Results got = run(o);
  const Results expected = definition(o);
  EXPECT_LT(relative_error(got.normed, expected.normed), 3e-3);
  for (std::size_t i = 0; i < expected.grads.size(); ++i) {
    EXPECT_EQ(got.grads[i].sizes(), expected.grads[i].sizes());
    EXPECT_LT(relative_error(got.grads[i], expected.grads[i]), 4e-3) << i;
  }
  const Results none = run(random_operands(GetParam(), {0, 64}));
  EXPECT_EQ(none.normed.sizes(), (std::vector<std::int64_t>{0, 64}));
  EXPECT_TRUE((none.grads[1] == 0).all().item<bool>());
}

TEST_P(ResidualNorm, PassesNaNOn) {
  Operands o = random_operands(GetParam(), {20, 128});
  const testing::Autocast autocast(GetParam());
  {
    const torch::NoGradGuard no_grad;
    o.branch[7][3] = NAN;
  }
  const Tensor lost = run(o).normed.isnan();
  EXPECT_TRUE(lost[7].all().item<bool>());
  EXPECT_EQ(lost.sum().item<std::int64_t>(), 128);
}

// Rows whose squares leave the range of float32, among others.
TEST_P(ResidualNorm, TakesLargeRows) {
  for (const std::int64_t width : {64, 1024, 4096}) {
    for (const bool branch : {true, false}) {
      Operands o = random_operands(GetParam(), {11, width}, branch);
      {
        const torch::NoGradGuard no_grad;
        const double factors[] = {1, 1e12, 1e18, 1e20, 1e28, 1e37};
        for (std::int64_t row = 0; row < 6; ++row) {
          o.x[row] *= factors[row];
        }
      }
      const Results expected = definition(o);
      const testing::Autocast autocast(GetParam());
      const Results got = run(o);
      for (std::int64_t row = 0; row < 11; ++row) {
        EXPECT_LT(relative_error(got.normed[row], expected.normed[row]), 4e-3)
            << width << ", " << row;
        if (row != 5) {  // whose gradient is below the smallest of float32
          EXPECT_LT(
              relative_error(got.grads[0][row], expected.grads[0][row]), 4e-3)
              << width << ", " << row;
        }
      }
      EXPECT_LT(relative_error(got.grads[1], expected.grads[1]), 4e-3) << width;
    }
  }
}

// A gradient that is asked for with a graph is the same, and has a gradient.
TEST_P(ResidualNorm, IsDifferentiableTwice) {
  const Operands o = random_operands(
      GetParam(), {6, 16}, /*branch=*/true, /*bias=*/true, /*readers=*/3);
  const testing::Autocast autocast(GetParam());
  const auto [sum, normed] = norm(o);
  const auto gradients = [&, sum = sum, normed = normed](bool graph) {
    return torch::autograd::grad(
        {sum, normed[0], normed[1], normed[2]},
        o.leaves(),
        {o.dsum, o.dnormed[0], o.dnormed[1], o.dnormed[2]},
        /*retain_graph=*/true,
        /*create_graph=*/graph);
  };
  const auto first = gradients(true);
  const auto plain = gradients(false);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LT(relative_error(first[i], plain[i].to(torch::kFloat64)), 2e-2)
        << i;
  }
  const Tensor second =
      torch::autograd::grad({first[0].square().sum()}, {o.gain})[0];
  EXPECT_TRUE(second.isfinite().all().item<bool>());
  EXPECT_GT(second.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace einforge
