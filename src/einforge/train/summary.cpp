#include "einforge/train/summary.h"

#include <cmath>

#include "einforge/base/config.h"
#include "einforge/base/error.h"
#include "einforge/data/metadata.h"
#include "einforge/data/teacher_shape.h"

namespace einforge::train {

TaskShape task_shape(const TrainConfig& config) {
  TaskShape shape;
  if (config.model.kind != "gpt") {
    shape.inputs = teacher_shape(config).inputs;
    shape.outputs = data::TeacherShape::kOutputs;
    shape.tokens = config.data.batch_size;
    // The targets' variance.
    shape.untrained_loss = 1;
    shape.identity = {{"teacher", kTeacherSeed}};
    if (config.data.teacher != DataConfig{}.teacher) {
      shape.identity["kind"] = config.data.teacher;
    }
    return shape;
  }
  base::check(
      !config.data.path.empty(),
      "data.path: expected a folder that `einforge data prepare` made; got "
      "none");
  const data::Metadata metadata = data::read_metadata(config.data.path);
  shape.outputs = metadata.vocab_size;
  shape.untrained_loss = std::log(static_cast<double>(metadata.vocab_size));
  shape.tokens = config.data.batch_size * config.model.context;
  shape.identity = {{"tokens", metadata.tokens}, {"hash", metadata.train.hash}};
  if (!metadata.tokenizer.file.empty()) {
    shape.identity["tokenizer"] = base::to_json(metadata.tokenizer);
  }
  if (metadata.end_of_text >= 0) {
    shape.identity["end_of_text"] = metadata.end_of_text;
  }
  return shape;
}

models::ModelPlan plan_model(
    const TrainConfig& config, const TaskShape& shape) {
  models::ModelPlan plan = models::plan(
      config.model, shape.inputs, shape.outputs, base_model(config));
  if (config.flops == "paper") {
    plan.attention_macs = plan.square_attention_macs;
  }
  return plan;
}

models::BaseModel base_model(const TrainConfig& config) {
  return {config.optimizer.base_width, config.optimizer.base_ffn_multiple};
}

data::TeacherShape teacher_shape(const TrainConfig& config) {
  data::TeacherShape shape;
  if (config.data.teacher == "paper") {
    shape.layers = 7;  // six hidden ones
    shape.bias_std = 0;
  }
  return shape;
}

ModelSummary summarise(const TrainConfig& config) {
  config.validate();
  const TaskShape shape = task_shape(config);
  const models::ModelPlan plan = plan_model(config, shape);
  return {
      .parameters = plan.parameters(),
      .flops_per_token = plan.flops(),
      .tokens_per_step = shape.tokens * config.optimizer.accumulate};
}

}  // namespace einforge::train
