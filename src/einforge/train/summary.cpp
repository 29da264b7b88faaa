#include "einforge/train/summary.h"

#include "einforge/base/error.h"
#include "einforge/data/metadata.h"
#include "einforge/data/teacher_shape.h"

namespace einforge::train {

TaskShape task_shape(const TrainConfig& config) {
  TaskShape shape;
  if (config.model.kind == "mlp") {
    shape.inputs = data::TeacherShape{}.inputs;
    shape.outputs = data::TeacherShape::kOutputs;
    shape.tokens = config.data.batch_size;
    shape.identity = {{"teacher", kTeacherSeed}};
    return shape;
  }
  base::check(
      !config.data.path.empty(),
      "data.path: expected a folder that `einforge data prepare` made; got "
      "none");
  const data::Metadata metadata = data::read_metadata(config.data.path);
  shape.outputs = metadata.vocab_size;
  shape.tokens = config.data.batch_size * config.model.context;
  shape.identity = {{"tokens", metadata.tokens}, {"hash", metadata.train.hash}};
  return shape;
}

models::ModelPlan plan_model(
    const TrainConfig& config, const TaskShape& shape) {
  return models::plan(
      config.model, shape.inputs, shape.outputs, config.optimizer.base_width);
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
