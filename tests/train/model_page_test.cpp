// docs/model.md has a program that reads a checkpoint without einforge: it must
// come to the logits that einforge comes to.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <string>
#include <vector>

#include "einforge/train/load_model.h"
#include "tests/train/trainer_fixture.h"

namespace einforge::train {
namespace {

std::string program_of_the_page() {
  const std::string page = base::read_file(source_folder() / "docs/model.md");
  const std::string begin = "```python\n";
  const auto start = page.find(begin) + begin.size();
  return page.substr(start, page.find("```", start) - start);
}

class ModelPageTest : public TrainerTest {
 protected:
  void compare(const std::string& name, const TrainConfig& c) {
    SCOPED_TRACE(name);
    train(c, options(name));
    const std::vector<std::int64_t> tokens = {3, 1, 40, 40, 9, 2, 71};
    const LoadedModel loaded = load_model(root_ / name);
    const torch::NoGradGuard no_grad;
    const torch::Tensor expected =
        loaded.model->forward(torch::tensor(tokens).unsqueeze(0))[0][6];
    std::string arguments;
    for (const std::int64_t token : tokens) {
      arguments += fmt::format(", '{}'", token);
    }
    std::string values;
    for (std::int64_t i = 0; i < expected.numel(); ++i) {
      values += fmt::format("{},", expected[i].item<float>());
    }
    const CommandResult python = run_python(
        root_.path(),
        fmt::format(
            "import sys\n"
            "sys.argv = ['', r'{}/checkpoints/step_{:08}'{}]\n"
            "__name__ = 'reader'\n{}\n"
            "got = Gpt(sys.argv[1]).logits(\n"
            "    torch.tensor([[int(t) for t in sys.argv[2:]]]))[0, -1]\n"
            "want = torch.tensor([{}])\n"
            "assert want.abs().max() > 0.01\n"
            "torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)\n",
            (root_ / name).string(),
            loaded.step,
            arguments,
            program_of_the_page(),
            values));
    EXPECT_EQ(python.code, 0) << python.output;
  }

  TrainConfig small(const std::string& structure) const {
    TrainConfig c = config(structure);
    c.model.layers = 2;
    c.model.head_width = 8;
    c.steps = 8;
    c.optimizer.learning_rate = 3e-2;
    return c;
  }
};

TEST_F(ModelPageTest, StructuredLayers) {
  compare("monarch", small("monarch"));
  TrainConfig c = small("btt:0.25");
  c.model.structure.k = "kronecker";
  c.model.structure.v = "theta:0.25,0.5,0.25,0.5,0.25,0.25,0.25";
  c.model.structure.ffn_in = "low_rank:0.5";
  c.model.structure.attention_out = "dense";
  c.model.structure.head = "low_rank:0.5";
  compare("each", c);
  c = small("monarch");
  c.model.bias = false;
  c.model.rms_cap = false;
  compare("plain", c);
}

TEST_F(ModelPageTest, Mixtures) {
  TrainConfig c = small("btt_moe:E=4,k=2");
  c.model.structure.v = "dense_moe:E=4,k=1";
  c.model.structure.ffn_in = "low_rank_moe:E=4,k=3";
  c.model.moe.shared_expert = true;
  c.model.moe.router.bias_rate = 0.01;
  compare("each", c);
  c = small("btt_moe:E=4,k=2");
  c.model.structure.ffn_in = "ffn_moe:E=4,k=2";
  c.model.moe.shared_qkv_router = true;
  c.model.moe.router.gates = "all";
  compare("shared", c);
}

}  // namespace
}  // namespace einforge::train
