#include "einforge/train/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <fstream>
#include <string>
#include <vector>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
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

// A state.json with these values, and the checksum of what it then is.
void write_state(const fs::path& path, const base::Json& values) {
  base::Json state = base::Json::parse(base::read_file(path));
  state.update(values);
  state.erase("checksum");
  state["checksum"] = base::hash_hex(state.dump());
  std::ofstream(path) << state.dump();
}

TEST(Checkpoint, ForeignOrNewerIsAnError) {
  for (const base::Json& values :
       {base::Json{{"format", "other"}},
        base::Json{{"version", 99}},
        base::Json{{"version", 0}},
        base::Json{{"version", "x"}},
        base::Json{{"step", -1}},
        base::Json{{"step", "x"}}}) {
    const TemporaryFolder root;
    CheckpointFolder folder(root / "checkpoints");
    write(folder, 1);
    write(folder, 2);
    write_state(root / "checkpoints/step_00000002/state.json", values);
    EXPECT_THROW(newest(folder), base::InvalidInput) << values.dump();
  }
}

// Every byte of it: what a flip makes of it is damage, whatever it says then.
TEST(Checkpoint, AFlippedBitOfItsStateIsDamage) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 1);
  write(folder, 2);
  const fs::path path = root / "checkpoints/step_00000002/state.json";
  const std::string text = base::read_file(path);
  const std::string state = base::Json::parse(text).dump();
  for (std::size_t i = 0; i < text.size(); i += 3) {
    std::string flipped = text;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 7)));
    // White space between values means nothing.
    const base::Json json = base::Json::parse(flipped, nullptr, false);
    if (!json.is_discarded() && json.dump() == state) {
      continue;
    }
    std::ofstream(path) << flipped;
    const auto checkpoint = newest(folder);
    ASSERT_TRUE(checkpoint.has_value()) << i;
    EXPECT_EQ(checkpoint->step, 1) << i << "\n" << flipped;
  }
}

// A folder under another's name says nothing of that step.
TEST(Checkpoint, TheNameOfAFolderIsItsStep) {
  const TemporaryFolder root;
  CheckpointFolder folder(root / "checkpoints");
  write(folder, 10);
  fs::copy(
      root / "checkpoints/step_00000010", root / "checkpoints/step_00000050");
  for (const char* name :
       {"step_5", "step_00000005x", "step_99999999999999999999", "step_"}) {
    fs::create_directories(root / "checkpoints" / name);
  }
  std::ofstream(root / "checkpoints/step_00000070") << "a file";
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{50, 10}));
  EXPECT_EQ(newest(folder)->step, 10);
  EXPECT_EQ(warnings.size(), 1U);
}

// What was just written stays, whatever else lies there; what is damaged or
// another run's does not count and is not deleted.
TEST(Checkpoint, OnlyItsOwnWholeOnesRotate) {
  const TemporaryFolder root;
  const fs::path at = root / "checkpoints";
  const auto ours = [](const Checkpoint& c) {
    return c.state.value("run", "") != "another";
  };
  {
    CheckpointFolder before(at, ours);
    for (const std::int64_t step : {10, 20, 30, 40}) {
      write(before, step, 9);
    }
    before.write(50, tensors(1), tensors(1), {{"run", "another"}}, 9);
    before.write(5, tensors(1), tensors(1), {{"run", "another"}}, 9);
  }
  fs::resize_file(at / "step_00000040/model.safetensors", 10);
  fs::create_directories(at / "step_00000060");  // empty
  CheckpointFolder folder(at, ours);  // of a process that has seen none of it
  using Steps = std::vector<std::int64_t>;
  write(folder, 39, 2);
  EXPECT_EQ(folder.steps(), (Steps{60, 50, 40, 39, 30, 5}));
  write(folder, 41, 2);
  EXPECT_EQ(folder.steps(), (Steps{60, 50, 41, 40, 39, 5}));
  write(folder, 42, 1);
  EXPECT_EQ(folder.steps(), (Steps{60, 50, 42, 40, 5}));
  // One of the step that is damaged takes its place.
  write(folder, 40, 1);
  EXPECT_EQ(folder.steps(), (Steps{60, 50, 40, 5}));
  EXPECT_EQ(newest(CheckpointFolder(at)).value().step, 50);
}

TEST(Checkpoint, LeftoversOfKilledWritesAreSwept) {
  const TemporaryFolder root;
  const fs::path at = root / "checkpoints";
  CheckpointFolder folder(at);
  write(folder, 1);
  fs::remove(at / "step_00000001/model.safetensors");  // damaged
  for (const char* name : {".old_1", ".old_7", ".new_1", ".new_9"}) {
    fs::create_directories(at / name / "inside");
    std::ofstream(at / name / "inside/file") << "left";
  }
  // Even where nobody has swept.
  write(folder, 1);
  EXPECT_EQ(newest(folder)->step, 1);
  CheckpointFolder(at).sweep();
  std::size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(at)) {
    ++entries;
    EXPECT_EQ(entry.path().filename(), "step_00000001");
  }
  EXPECT_EQ(entries, 1U);
}

TEST(Checkpoint, NamesTensorsThatAreNotFinite) {
  NamedTensors all = tensors(1);
  EXPECT_EQ(not_finite(all), "");
  EXPECT_NO_THROW(check_finite("file", all));
  all[1].second = all[1].second.clone();
  all[1].second[1][0][1] = -INFINITY;
  EXPECT_EQ(not_finite(all), "core");
  EXPECT_THROW(check_finite("file", all), base::InvalidInput);
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
