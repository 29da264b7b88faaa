#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "einforge/data/metadata.h"
#include "einforge/models/model.h"
#include "einforge/train/adamw.h"
#include "einforge/train/config.h"

namespace einforge::train {

struct LoadedModel {
  TrainConfig config;
  std::shared_ptr<models::Model> model;
  std::int64_t step = 0;
  std::string tokens;             // the tokeniser's name; empty for an mlp
  std::int64_t vocab_size = 0;    // of a gpt
  std::int64_t end_of_text = -1;  // -1: not known
  // In the checkpoint's folder; no file: none is needed, or known.
  data::TokenizerInfo tokenizer;
  std::filesystem::path checkpoint;
};

// What a checkpoint keeps of a model: its parameters and its buffers.
NamedTensors state_tensors(const models::Model& model);

// The trained model of a checkpoint folder or, given a run's folder or the
// folder of its checkpoints, of the newest whole one, in evaluation mode. The
// data folder is not needed. Throws base::InvalidInput when there is none, or
// it is damaged or foreign.
LoadedModel load_model(
    const std::filesystem::path& path, const std::string& device = "cpu");

}  // namespace einforge::train
