#include "einforge/models/model.h"

#include <ATen/CPUGeneratorImpl.h>

#include "einforge/models/gpt.h"
#include "einforge/models/mlp.h"
#include "einforge/models/residual_mlp.h"

namespace einforge::models {

std::shared_ptr<Model> make_model(
    const ModelConfig& config,
    std::int64_t inputs,
    std::int64_t outputs,
    const BaseModel& base,
    std::uint64_t seed) {
  ModelPlan model_plan = plan(config, inputs, outputs, base);
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  if (config.kind == "gpt") {
    return std::make_shared<Gpt>(config, std::move(model_plan), generator);
  }
  if (config.kind == "residual_mlp") {
    return std::make_shared<ResidualMlp>(
        config, std::move(model_plan), generator);
  }
  return std::make_shared<Mlp>(config, std::move(model_plan), generator);
}

}  // namespace einforge::models
