// A short training run on real text, compared with a committed curve: what
// breaks learning anywhere between the data and the optimiser shows here.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/data/dataset.h"
#include "einforge/data/prepare.h"
#include "einforge/train/trainer.h"
#include "tests/base/test_name.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

// Of the symbols of a text taken one by one, in nats: what a model that only
// knows their frequencies reaches.
double unigram_entropy(const data::TokenStream& stream) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);
  std::vector<double> counts(65'536);
  for (const std::int64_t token : tokens) {
    ++counts[static_cast<std::size_t>(token)];
  }
  double entropy = 0;
  for (const double count : counts) {
    if (count > 0) {
      const double p = count / static_cast<double>(tokens.size());
      entropy -= p * std::log(p);
    }
  }
  return entropy;
}

class CurveTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(
    Structures,
    CurveTest,
    testing::Values("dense", "monarch"),
    base::testing::TestName());

TEST_P(CurveTest, IsTheCommittedOne) {
  const TemporaryFolder root;
  data::prepare(
      {.inputs = {(source_folder() / "examples/data").string()},
       .out = root / "data",
       .progress = false});
  TrainConfig config;
  config.model.width = 64;
  config.model.layers = 1;
  config.model.context = 64;
  config.model.structure.all = GetParam();
  config.data.path = (root / "data").string();
  config.data.batch_size = 16;
  config.optimizer.learning_rate = 1e-3;
  config.schedule = {.kind = "wsd", .warmup_steps = 20};
  config.steps = 150;
  config.eval_every = 50;
  config.eval_batches = 8;
  config.device = "cpu";
  std::vector<double> losses;
  const TrainResult result = train(
      config,
      {.directory = root / "run",
       .on_point = [&](const auto& p) { losses.push_back(p.val_loss); },
       .progress = false});

  const data::TokenDataset dataset(root / "data");
  EXPECT_LT(result.final_loss, unigram_entropy(dataset.validation()) - 0.35);

  const auto path = source_folder() / "tests/train/curves.json";
  if (std::getenv("EINFORGE_WRITE_CURVES") != nullptr) {
    base::Json curves = std::filesystem::exists(path)
                            ? base::Json::parse(base::read_file(path))
                            : base::Json::object();
    curves[GetParam()] = losses;
    std::ofstream(path) << curves.dump(2) << "\n";
    GTEST_SKIP() << "wrote " << path;
  }
  const base::Json curves = base::Json::parse(base::read_file(path));
  const auto expected = curves.at(GetParam()).get<std::vector<double>>();
  ASSERT_EQ(losses.size(), expected.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    // Other processors round otherwise; training amplifies that a little.
    EXPECT_NEAR(losses[i], expected[i], 0.02) << "point " << i;
  }
}

}  // namespace
}  // namespace einforge::train
