#include "einforge/train/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "tests/train/testing.h"

namespace einforge::train {
namespace {

namespace fs = std::filesystem;

NamedTensors tensors(double value) {
  return {
      {"weight", torch::full({3, 4}, value)},
      // Permuted in memory, as cores are.
      {"core", torch::arange(24.0).view({2, 3, 4}).permute({2, 0, 1}) * value},
      {"scalar", torch::full({}, value)},
      {"rng", torch::arange(5).to(torch::kUInt8)}};
}

std::vector<std::string> warnings;

std::optional<Checkpoint> newest(const CheckpointFolder& folder) {
  warnings.clear();
  return folder.newest(
      [](const std::string& message) { warnings.push_back(message); });
}

void write(CheckpointFolder& folder, std::int64_t step, std::int64_t keep = 2) {
  folder.write(
      step,
      tensors(static_cast<double>(step)),
      tensors(-1),
      {{"loss", 0.1 + static_cast<double>(step)}},
      keep);
}

void overwrite(const fs::path& path, std::size_t offset, char byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

TEST(Checkpoint, ComesBackAsItWas) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  EXPECT_FALSE(newest(folder).has_value());
  write(folder, 7);
  const auto checkpoint = newest(folder);
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_EQ(checkpoint->step, 7);
  EXPECT_EQ(checkpoint->state.at("loss"), 7.1);
  NamedTensors loaded = tensors(0);
  load_tensors(checkpoint->model, "model", loaded);
  const NamedTensors expected = tensors(7);
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    EXPECT_TRUE(loaded[i].second.equal(expected[i].second)) << loaded[i].first;
  }
}

TEST(Checkpoint, PythonsSafetensorsReadsIt) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 3);
  const CommandResult python = run_python(
      root.path(),
      fmt::format(
          R"(
import torch
from safetensors.torch import load_file
t = load_file(r'{}/checkpoints/step_00000003/model.safetensors')
assert sorted(t) == ['core', 'rng', 'scalar', 'weight'], t
core = torch.arange(24.).view(2, 3, 4).permute(2, 0, 1) * 3
assert torch.equal(t['core'], core)
assert torch.equal(t['weight'], torch.full((3, 4), 3.))
assert t['scalar'].shape == () and t['rng'].dtype == torch.uint8
)",
          root.path().string()));
  EXPECT_EQ(python.code, 0) << python.output;
}

TEST(Checkpoint, KeepsTheNewest) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  for (const std::int64_t step : {10, 20, 30, 40}) {
    write(folder, step, 3);
  }
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{40, 30, 20}));
  for (const auto& entry : fs::directory_iterator(root / "checkpoints")) {
    EXPECT_EQ(entry.path().filename().string().rfind("step_", 0), 0U);
  }
}

TEST(Checkpoint, DamagedOnesAreSkipped) {
  const char* names[] = {
      "model.safetensors", "optimizer.safetensors", "state.json"};
  for (const char* name : names) {
    for (const char* how : {"flip", "cut", "gone"}) {
      const TemporaryFolder root;
      CheckpointFolder folder(root / "checkpoints");
      write(folder, 1);
      write(folder, 2);
      const fs::path path = root / "checkpoints/step_00000002" / name;
      const auto size = fs::file_size(path);
      if (how == std::string("flip")) {
        overwrite(path, size - 10, '\x55');
      } else if (how == std::string("cut")) {
        fs::resize_file(path, size / 2);
      } else {
        fs::remove(path);
      }
      const auto checkpoint = newest(folder);
      ASSERT_TRUE(checkpoint.has_value()) << name << " " << how;
      EXPECT_EQ(checkpoint->step, 1);
      ASSERT_EQ(warnings.size(), 1U);
      EXPECT_NE(warnings[0].find("step 2"), std::string::npos);
      // And it can be written again.
      write(folder, 2);
      EXPECT_EQ(newest(folder)->step, 2);
    }
  }
}

TEST(Checkpoint, AllDamagedIsAnError) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 1);
  fs::remove(root / "checkpoints/step_00000001/model.safetensors");
  EXPECT_THROW(newest(folder), base::InvalidInput);
}

TEST(Checkpoint, ForeignOrNewerIsAnError) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 1);
  const fs::path state = root / "checkpoints/step_00000001/state.json";
  const std::string text = base::read_file(state);
  for (const auto& [from, to] :
       {std::pair{"\"einforge-checkpoint\"", "\"other\""},
        std::pair{"\"version\": 2", "\"version\": 99"},
        std::pair{"\"version\": 2", "\"version\": \"x\""}}) {
    std::string changed = text;
    changed.replace(changed.find(from), std::string(from).size(), to);
    std::ofstream(state) << changed;
    EXPECT_THROW(newest(folder), base::InvalidInput) << to;
  }
}

TEST(Checkpoint, LeftoversOfAKilledWriteDoNotMatter) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 1);
  fs::create_directories(root / "checkpoints/.new_2");
  std::ofstream(root / "checkpoints/.new_2/model.safetensors") << "torn";
  EXPECT_EQ(newest(folder)->step, 1);
  write(folder, 2);
  EXPECT_EQ(newest(folder)->step, 2);
  EXPECT_FALSE(fs::exists(root / "checkpoints/.new_2"));
}

TEST(Checkpoint, OtherTensorsAreRefused) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 1);
  const auto checkpoint = newest(folder);
  const auto refused = [&](const NamedTensors& targets) {
    EXPECT_THROW(
        load_tensors(checkpoint->model, "m", targets), base::InvalidInput);
  };
  NamedTensors wrong = tensors(0);
  wrong[0].first = "other";
  refused(wrong);
  wrong = tensors(0);
  wrong[0].second = torch::zeros({4, 3});
  refused(wrong);
  wrong = tensors(0);
  wrong[0].second = torch::zeros({3, 4}, torch::kFloat64);
  refused(wrong);
  wrong = tensors(0);
  wrong.pop_back();
  refused(wrong);
}

}  // namespace
}  // namespace einforge::train
