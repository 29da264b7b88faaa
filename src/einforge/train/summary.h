#pragma once

#include <cstdint>

#include "einforge/base/json.h"
#include "einforge/data/teacher_shape.h"
#include "einforge/models/plan.h"
#include "einforge/train/config.h"

// What a configuration means, known without Torch and without building it.

namespace einforge::train {

// What a config's task looks like to a model, known without loading it.
struct TaskShape {
  std::int64_t inputs = 0;   // features of a sample (mlp)
  std::int64_t outputs = 0;  // the vocabulary (gpt) or number of targets
  // Tokens (gpt) or samples (mlp) of a micro-batch.
  std::int64_t tokens = 0;
  // Of a model that knows nothing: every run starts with it.
  double untrained_loss = 0;
  // Identifies the data in a checkpoint: {"tokens":, "hash":} or {"teacher":};
  // with "tokenizer" and "end_of_text" where the data folder has one.
  base::Json identity;
};

// The function that the regression task learns is the same for every run.
inline constexpr std::uint64_t kTeacherSeed = 0;

// Reads at most the metadata. Throws base::InvalidInput.
TaskShape task_shape(const TrainConfig& config);

// The model's plan at that shape, with attention's MACs counted as the config
// wants it.
models::ModelPlan plan_model(const TrainConfig& config, const TaskShape& shape);
models::BaseModel base_model(const TrainConfig& config);

// Of the regression task.
data::TeacherShape teacher_shape(const TrainConfig& config);

// What a model costs, known before it is trained.
struct ModelSummary {
  std::int64_t parameters = 0;
  // Forward + backward FLOPs (2 per MAC, backward twice forward) of one token
  // (gpt) or sample (mlp), attention and head included.
  double flops_per_token = 0;
  // Tokens of one optimiser step.
  std::int64_t tokens_per_step = 0;
};
// Builds no tensors. Throws base::InvalidInput for a config that makes no
// model. Reads the data folder's metadata for the vocabulary.
ModelSummary summarise(const TrainConfig& config);

}  // namespace einforge::train
