#include "einforge/ops/ffn.h"

#include <numbers>
#include <vector>

#include "einforge/ops/cuda/ffn.h"
#include "einforge/ops/einsum_linear.h"
#include "einforge/ops/kernel_table.h"
#include "tests/ops/fused_testing.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Tensor;

const char* const kNames[] = {
    "y", "dx", "dA1", "dB1", "dbias1", "dA2", "dB2", "dbias2"};

struct Operands {
  Sizes in;
  Sizes out;
  Tensor x;
  ops::FfnLayer first;
  ops::FfnLayer second;
  Tensor grad;

  // x, then what gradients come for; undefined without biases.
  std::vector<Tensor> all() const {
    return {
        x,
        first.core_a,
        first.core_b,
        first.bias,
        second.core_a,
        second.core_b,
        second.bias};
  }
  ops::FfnProblem problem() const {
    return {in, out, first.bias.defined(), second.bias.defined()};
  }
};

ops::FfnLayer random_layer(
    const Sizes& s, bool bias, const torch::TensorOptions& options) {
  const auto normal = [&](c10::IntArrayRef sizes, std::int64_t terms) {
    return (1.4 * torch::randn(sizes, options.dtype(torch::kFloat32)) /
            std::sqrt(static_cast<double>(terms)))
        .to(options);
  };
  return {
      ops::core_a_layout(
          normal({s.alpha, s.gamma, s.delta, s.phi, s.rho}, s.alpha), s),
      ops::core_b_layout(
          normal(
              {s.beta, s.gamma, s.epsilon, s.phi, s.rho},
              s.beta * s.gamma * s.rho),
          s),
      bias ? normal({s.d_out()}, 1) : Tensor()};
}

// A block-tensor-train layer of rank one.
Sizes btt(
    std::int64_t alpha,
    std::int64_t gamma,
    std::int64_t epsilon,
    std::int64_t phi) {
  return {
      .alpha = alpha,
      .beta = 1,
      .gamma = gamma,
      .delta = 1,
      .epsilon = epsilon,
      .phi = phi,
      .rho = 1};
}

Operands random_operands(
    const Sizes& in,
    const Sizes& out,
    std::int64_t tokens,
    bool bias,
    const torch::TensorOptions& options) {
  const auto randn = [&](std::int64_t width) {
    return torch::randn({tokens, width}, options.dtype(torch::kFloat32))
        .to(options);
  };
  return {
      in,
      out,
      randn(in.d_in()),
      random_layer(in, bias, options),
      random_layer(out, bias, options),
      randn(out.d_out())};
}

// y and the gradients of all().
template <typename Way>
std::vector<Tensor> run(const Operands& o, const Way& way) {
  std::vector<Tensor> leaves;
  std::vector<Tensor> asked;
  for (const Tensor& tensor : o.all()) {
    leaves.push_back(
        tensor.defined() ? tensor.detach().requires_grad_() : tensor);
    if (tensor.defined()) {
      asked.push_back(leaves.back());
    }
  }
  const Tensor y =
      way(leaves[0],
          ops::FfnLayer{leaves[1], leaves[2], leaves[3]},
          ops::FfnLayer{leaves[4], leaves[5], leaves[6]});
  const auto grads = torch::autograd::grad({y}, asked, {o.grad});
  std::vector<Tensor> results{y.detach()};
  std::size_t next = 0;
  for (const Tensor& leaf : leaves) {
    results.push_back(leaf.defined() ? grads[next++] : Tensor());
  }
  return results;
}

// The definition in float64.
std::vector<Tensor> reference(const Operands& o) {
  Operands wide = o;
  const auto widen = [](Tensor& tensor) {
    if (tensor.defined()) {
      tensor = tensor.to(torch::kFloat64);
    }
  };
  for (Tensor* tensor :
       {&wide.x,
        &wide.grad,
        &wide.first.core_a,
        &wide.first.core_b,
        &wide.first.bias,
        &wide.second.core_a,
        &wide.second.core_b,
        &wide.second.bias}) {
    widen(*tensor);
  }
  const auto linear =
      [](const Tensor& x, const ops::FfnLayer& layer, const Sizes& s) {
        const Tensor z = torch::einsum(
            "tabg,agdfr->tbgdfr",
            {x.reshape({-1, s.alpha, s.beta, s.gamma}), layer.core_a});
        const Tensor y = torch::einsum("tbgdfr,bgefr->tdef", {z, layer.core_b})
                             .reshape({-1, s.d_out()});
        return layer.bias.defined() ? y + layer.bias : y;
      };
  return run(
      wide,
      [&](const Tensor& x, const ops::FfnLayer& in, const ops::FfnLayer& out) {
        const Tensor v = linear(x, in, o.in);
        const Tensor hidden = 0.5 * v *
                              (1 + torch::tanh(
                                       std::sqrt(2 / std::numbers::pi) *
                                       (v + 0.044715 * v.pow(3))));
        return linear(hidden, out, o.out);
      });
}

// Rounded to bfloat16 after each stage as the layers one after the other are.
void expect_close(const Operands& o, const std::vector<Tensor>& got) {
  const auto expected = reference(o);
  const double most = o.x.scalar_type() == torch::kBFloat16 ? 1e-2 : 1e-12;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].defined(), expected[i].defined()) << kNames[i];
    if (got[i].defined()) {
      EXPECT_EQ(got[i].sizes(), expected[i].sizes()) << kNames[i];
      EXPECT_LE(testing::relative_error(got[i], expected[i]), most)
          << kNames[i] << " of " << o.x.size(0) << " tokens";
    }
  }
}

TEST(Ffn, IsItsDefinitionOnTheCpu) {
  torch::manual_seed(1);
  for (const bool bias : {false, true}) {
    const Operands o = random_operands(
        btt(3, 4, 5, 2), btt(5, 2, 3, 4), 7, bias, torch::kFloat64);
    EXPECT_FALSE(ops::ffn_is_fused(o.x, o.problem()));
    expect_close(o, run(o, ops::ffn));
  }
}

TEST(Ffn, RefusesLayersThatDoNotFit) {
  const Operands o = random_operands(
      btt(3, 4, 5, 2), btt(5, 2, 3, 4), 7, true, torch::kFloat64);
  EXPECT_THROW(ops::ffn(o.x, o.second, o.first), c10::Error);
  EXPECT_THROW(
      ops::ffn(o.x.to(torch::kFloat32), o.first, o.second), c10::Error);
}

// Some of the FFNs of Monarch networks, and one of other sizes: in, out.
std::vector<std::pair<Sizes, Sizes>> fused_sizes() {
  return {
      {btt(32, 32, 64, 64), btt(64, 64, 32, 32)},
      {btt(32, 24, 64, 48), btt(64, 48, 32, 24)},
      {btt(24, 16, 48, 32), btt(48, 32, 24, 16)},
      {btt(20, 8, 16, 16), btt(16, 16, 12, 32)}};
}

const auto kOnGpu = torch::dtype(torch::kBFloat16).device(torch::kCUDA);

#define NEEDS_KERNELS(operands)                                     \
  EINFORGE_NEEDS(torch::kCUDA)                                      \
  if (!ops::fused::takes_ffn((operands).x, (operands).problem())) { \
    GTEST_SKIP() << "no kernels of our own for this device";        \
  }

TEST(FusedFfn, IsItsDefinition) {
  EINFORGE_NEEDS(torch::kCUDA)
  torch::manual_seed(2);
  for (const auto& [in, out] : fused_sizes()) {
    for (const std::int64_t tokens : {1, 47, 5001}) {
      const Operands o =
          random_operands(in, out, tokens, tokens % 2 != 0, kOnGpu);
      NEEDS_KERNELS(o)
      const testing::Poison poison;
      expect_close(o, run(o, ops::fused::ffn));
    }
  }
}

TEST(FusedFfn, RepeatsItsBits) {
  EINFORGE_NEEDS(torch::kCUDA)
  const auto [in, out] = fused_sizes().front();
  const Operands o = random_operands(in, out, 5000, true, kOnGpu);
  NEEDS_KERNELS(o)
  const auto first = run(o, ops::fused::ffn);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const auto again = run(o, ops::fused::ffn);
    for (std::size_t i = 0; i < first.size(); ++i) {
      ASSERT_TRUE(torch::equal(first[i], again[i])) << kNames[i];
    }
  }
}

TEST(FusedFfn, TakesNoOtherLayers) {
  EINFORGE_NEEDS(torch::kCUDA)
  const auto [in, out] = fused_sizes().front();
  const Operands o = random_operands(in, out, 100, false, kOnGpu);
  NEEDS_KERNELS(o)
  Sizes ranked = in;
  ranked.rho = 2;
  EXPECT_FALSE(ops::fused::takes_ffn(o.x, {ranked, out}));
  // The hidden features are cut otherwise.
  EXPECT_FALSE(ops::fused::takes_ffn(o.x, {in, btt(32, 128, 32, 32)}));
  EXPECT_FALSE(ops::fused::takes_ffn(o.x.to(torch::kFloat32), o.problem()));
  const ops::ForcedKernel forced("bmm");
  EXPECT_FALSE(ops::ffn_is_fused(o.x, o.problem()));
}

TEST(FusedFfn, IsDifferentiableTwice) {
  EINFORGE_NEEDS(torch::kCUDA)
  const auto [in, out] = fused_sizes().back();
  Operands o = random_operands(in, out, 50, true, kOnGpu);
  NEEDS_KERNELS(o)
  const auto second = [&](const auto& way) {
    const Tensor x = o.x.detach().requires_grad_();
    const Tensor y = way(x, o.first, o.second);
    const Tensor dx = torch::autograd::grad(
        {y},
        {x},
        {o.grad},
        /*retain_graph=*/true,
        /*create_graph=*/true)[0];
    return torch::autograd::grad({dx.square().sum()}, {x})[0];
  };
  const Tensor expected = second(ops::ffn);  // few tokens: not fused
  EXPECT_LE(
      testing::relative_error(
          second(ops::fused::ffn), expected.to(torch::kFloat64)),
      2e-2);
}

}  // namespace
}  // namespace einforge
