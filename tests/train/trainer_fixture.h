#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "einforge/base/files.h"
#include "einforge/base/json.h"
#include "einforge/base/random.h"
#include "einforge/base/text.h"
#include "einforge/data/prepare.h"
#include "einforge/train/trainer.h"
#include "tests/train/testing.h"

namespace einforge::train {

namespace fs = std::filesystem;

// Text with something to learn: sentences of words drawn from a short list.
inline void write_text(const fs::path& path) {
  const std::vector<std::string> words = {
      "the",
      "river",
      "runs",
      "under",
      "a",
      "stone",
      "bridge",
      "and",
      "sea",
      "wind",
      "takes",
      "old",
      "ships",
      "home",
      "before",
      "night"};
  base::Random random(1);
  std::ofstream file(path);
  for (int paragraph = 0; paragraph < 400; ++paragraph) {
    for (int word = 0; word < 30; ++word) {
      file << words[random.below(words.size())] << ' ';
    }
    file << "\n\n";
  }
}

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    write_text(root_ / "text.txt");
    data::prepare(
        {.inputs = {(root_ / "text.txt").string()},
         .out = root_ / "data",
         .progress = false});
  }

  TrainConfig config(const std::string& structure = "monarch") const {
    TrainConfig c;
    c.model.width = 16;
    c.model.layers = 1;
    c.model.context = 16;
    c.model.structure.all = structure;
    c.data.path = (root_ / "data").string();
    c.data.batch_size = 4;
    c.optimizer.base_width = 16;
    c.schedule = {.kind = "cosine", .warmup_steps = 3};
    c.steps = 23;
    c.log_every = 4;
    c.eval_every = 10;
    c.eval_batches = 2;
    c.checkpoint_every = 7;
    c.device = "cpu";
    return c;
  }

  TrainOptions options(const std::string& name) const {
    return {.directory = root_ / name, .progress = false};
  }

  // The bytes of the newest checkpoint's model and optimiser.
  std::string weights(const std::string& name) const {
    fs::path newest;
    for (const auto& entry :
         fs::directory_iterator(root_ / name / "checkpoints")) {
      newest = std::max(newest, entry.path());
    }
    return base::read_file(newest / "model.safetensors") +
           base::read_file(newest / "optimizer.safetensors");
  }

  // The log without its timings and the memory that a process took.
  std::vector<base::Json> log(const std::string& name) const {
    std::vector<base::Json> rows;
    const std::string text = base::read_file(root_ / name / "log.jsonl");
    for (const std::string& line : base::split(base::trim(text), '\n')) {
      rows.push_back(base::Json::parse(line));
      rows.back().erase("seconds");
      rows.back().erase("tokens_per_second");
      rows.back().erase("peak_memory_bytes");
    }
    return rows;
  }

  TemporaryFolder root_;
};

}  // namespace einforge::train
