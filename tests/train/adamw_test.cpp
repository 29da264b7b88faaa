#include "einforge/train/adamw.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "einforge/base/files.h"
#include "einforge/base/safetensors.h"
#include "einforge/train/checkpoint.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

constexpr int kSteps = 12;

torch::Tensor initial(int index) {
  return torch::linspace(-1, 1 + index, 24 + 7 * index);
}

// Some of these exceed the clipping norm and some do not.
torch::Tensor gradient(const torch::Tensor& parameter, int step) {
  return (parameter * 3).sin() * (step % 3 == 0 ? 1.5 : 0.1);
}

struct Parameters {
  std::vector<nn::Parameter> parameters;
  Parameters() {
    const nn::ParameterRule rules[] = {{1, false}, {0.25, true}, {4, true}};
    for (int i = 0; i < 3; ++i) {
      parameters.push_back(
          {fmt::format("p{}", i), initial(i).requires_grad_(true), rules[i]});
    }
  }
  void set_gradients(int step) {
    for (const nn::Parameter& p : parameters) {
      p.tensor.mutable_grad() = gradient(p.tensor.detach(), step);
    }
  }
};

OptimizerConfig config() {
  OptimizerConfig c;
  c.learning_rate = 0.05;
  c.weight_decay = 0.1;
  c.clip_norm = 1;
  return c;
}

TEST(AdamW, MatchesPythonsTorch) {
  Parameters setup;
  AdamW optimizer(setup.parameters, config());
  for (int step = 1; step <= kSteps; ++step) {
    setup.set_gradients(step);
    optimizer.step(step, step < 5 ? 0.5 : 1);
  }
  const TemporaryFolder folder;
  const CommandResult python = run_python(
      folder.path(),
      fmt::format(
          R"(
import torch
from safetensors.torch import save_file
ps = [torch.linspace(-1, 1 + i, 24 + 7 * i, requires_grad=True)
      for i in range(3)]
rules = [(1, 0), (0.25, 0.1), (4, 0.1)]
opt = torch.optim.AdamW(
    [dict(params=[p], lr=0.05 * m, weight_decay=d)
     for p, (m, d) in zip(ps, rules)],
    betas=(0.9, 0.95), eps=1e-8, foreach=False)
for step in range(1, {} + 1):
    for p in ps:
        p.grad = (p.detach() * 3).sin() * (1.5 if step % 3 == 0 else 0.1)
    torch.nn.utils.clip_grad_norm_(ps, 1.0)
    for g, (m, _) in zip(opt.param_groups, rules):
        g['lr'] = 0.05 * m * (0.5 if step < 5 else 1)
    opt.step()
save_file({{f'p{{i}}': p.detach() for i, p in enumerate(ps)}},
          r'{}/expected.safetensors')
)",
          kSteps,
          folder.path().string()));
  ASSERT_EQ(python.code, 0) << python.output;
  const base::MappedFile file(folder / "expected.safetensors");
  NamedTensors expected;
  for (const nn::Parameter& p : setup.parameters) {
    expected.emplace_back(p.name, torch::zeros_like(p.tensor.detach()));
  }
  load_tensors(base::parse_safetensors(file.bytes()), "expected", expected);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LT(
        (expected[i].second - setup.parameters[i].tensor)
            .abs()
            .max()
            .item<double>(),
        3e-6)
        << i;
  }
}

TEST(AdamW, ReportsTheNormBeforeClipping) {
  Parameters setup;
  AdamW optimizer(setup.parameters, config());
  setup.set_gradients(3);
  double sum = 0;
  for (const nn::Parameter& p : setup.parameters) {
    sum += p.tensor.grad().square().sum().item<double>();
  }
  optimizer.step(1, 1);
  EXPECT_GT(sum, 1.0);
  EXPECT_NEAR(optimizer.gradient_norm().item<double>(), std::sqrt(sum), 1e-5);
  EXPECT_FALSE(setup.parameters[0].tensor.grad().defined());
}

TEST(AdamW, StatesThatLieDifferentlyInMemoryAreRight) {
  // The kernel walks memory: a permuted parameter must give the same numbers.
  const torch::Tensor start = torch::linspace(-1, 1, 24).view({4, 6});
  const auto run = [&](torch::Tensor parameter) {
    AdamW optimizer({{"p", parameter, {}}}, config());
    for (int step = 1; step <= 4; ++step) {
      (parameter * torch::arange(24).view({4, 6})).sin().sum().backward();
      optimizer.step(step, 1);
    }
    return parameter.detach().contiguous();
  };
  const torch::Tensor plain = run(start.clone().requires_grad_(true));
  const torch::Tensor permuted =
      run(start.t().contiguous().t().clone().requires_grad_(true));
  EXPECT_LT((plain - permuted).abs().max().item<double>(), 1e-6);
}

TEST(AdamW, MissingGradientIsAnError) {
  Parameters setup;
  AdamW optimizer(setup.parameters, config());
  EXPECT_THROW(optimizer.step(1, 1), c10::Error);
}

}  // namespace
}  // namespace einforge::train
