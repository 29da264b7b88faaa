// tests/train/version_1 is a run that an einforge of the first checkpoint
// version made: a small mlp with mixtures and shared experts, stopped at step
// 4 of 8. It must go on as it would have then.
#include <gtest/gtest.h>
#include <torch/types.h>

#include <filesystem>
#include <set>
#include <string>

#include "einforge/base/config.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/train/checkpoint.h"
#include "einforge/train/load_model.h"
#include "einforge/train/trainer.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

fs::path old_run() {
  return source_folder() / "tests/train/version_1";
}

TEST(OldCheckpoint, HasGainsByTheirOldName) {
  const std::string bytes = base::read_file(
      old_run() / "checkpoints/step_00000004/model.safetensors");
  EXPECT_NE(bytes.find("gamma_a"), std::string::npos);
  EXPECT_EQ(bytes.find("gain_a"), std::string::npos);
}

TEST(OldCheckpoint, Loads) {
  const LoadedModel loaded = load_model(old_run());
  EXPECT_EQ(loaded.step, 4);
  int gains = 0;
  for (const auto& [name, tensor] : state_tensors(*loaded.model)) {
    if (name.find("gain_") != std::string::npos) {
      ++gains;
      EXPECT_NE(tensor.item<float>(), 1) << name;  // four steps moved it
    }
  }
  EXPECT_EQ(gains, 8);  // two layers, each a mixture and its shared expert
}

TEST(OldCheckpoint, GoesOn) {
  const TemporaryFolder root;
  fs::copy(old_run(), root / "run", fs::copy_options::recursive);
  auto config = base::read_config<TrainConfig>(old_run() / "config.json");
  TrainOptions options = {
      .directory = root / "run", .resume = true, .progress = false};
  options.on_warning = [](const std::string&) {};
  // What its configuration says nowadays is not what it trained with.
  try {
    train(config, options);
    FAIL() << "resumed";
  } catch (const base::InvalidInput& error) {
    EXPECT_NE(std::string(error.what()).find("reduce"), std::string::npos)
        << error.what();
  }
  config.model.moe.router.reduce = "sum";
  config.model.moe.router.init_std = 0;
  config.optimizer.base_ffn_multiple = 4;
  const TrainResult result = train(config, options);
  EXPECT_EQ(result.outcome, Outcome::kFinished);
  EXPECT_EQ(result.steps, 8);
  // As the old einforge ended.
  EXPECT_NEAR(result.final_loss, 0.71737414598464966, 1e-5);
}

}  // namespace
}  // namespace einforge::train
