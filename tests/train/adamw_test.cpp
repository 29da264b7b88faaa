#include "einforge/train/adamw.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

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

// Squares of these overflow float32; the norm does not.
TEST(AdamW, ClipsGradientsWhoseSquaresOverflow) {
  const auto stepped = [](double scale) {
    Parameters setup;
    AdamW optimizer(setup.parameters, config());
    for (int step = 1; step <= 3; ++step) {
      for (const nn::Parameter& p : setup.parameters) {
        p.tensor.mutable_grad() =
            gradient(initial(0).sum() + p.tensor.detach(), 3) * scale;
      }
      optimizer.step(step, 1);
    }
    EXPECT_EQ(optimizer.failed_step().item<float>(), 0);
    return setup.parameters[2].tensor.detach();
  };
  // Clipped, both are the same direction of norm 1.
  EXPECT_TRUE(torch::allclose(stepped(1e30), stepped(1e3), 1e-5, 1e-6));
}

TEST(AdamW, AStepThatCannotBeRightChangesNothing) {
  struct Case {
    double value;
    double clip;
    bool fails;
  };
  for (const Case& c :
       {Case{NAN, 1, true},
        Case{INFINITY, 1, true},
        Case{3e38, 1, true},  // the norm overflows
        Case{1e37, 1, false},
        Case{1e25, 0, true},  // unclipped, the second moment would
        Case{1e25, 1e20, true},
        Case{1e15, 0, false}}) {
    SCOPED_TRACE(fmt::format("{} clipped to {}", c.value, c.clip));
    Parameters setup;
    OptimizerConfig settings = config();
    settings.clip_norm = c.clip;
    AdamW optimizer(setup.parameters, settings);
    const auto everything = [&] {
      NamedTensors all = optimizer.tensors();
      std::vector<torch::Tensor> flat;
      for (const nn::Parameter& p : setup.parameters) {
        all.emplace_back(p.name, p.tensor.detach());
      }
      for (const auto& [name, tensor] : all) {
        flat.push_back(tensor.reshape({-1}));
      }
      return torch::cat(flat);
    };
    setup.set_gradients(1);
    optimizer.step(1, 1);
    const torch::Tensor before = everything();
    setup.set_gradients(2);
    setup.parameters[1].tensor.mutable_grad().slice(0, 0, 9).fill_(c.value);
    optimizer.step(2, 1);
    EXPECT_EQ(optimizer.failed_step().item<float>(), c.fails ? 2 : 0);
    EXPECT_EQ(everything().equal(before), c.fails);
    EXPECT_TRUE(everything().isfinite().all().item<bool>());
    // Nor does a later one, whatever its gradients.
    const torch::Tensor after = everything();
    setup.set_gradients(3);
    optimizer.step(3, 1);
    EXPECT_EQ(optimizer.failed_step().item<float>(), c.fails ? 2 : 0);
    EXPECT_EQ(everything().equal(after), c.fails);
  }
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
