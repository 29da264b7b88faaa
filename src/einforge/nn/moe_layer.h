#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "einforge/nn/moe_router.h"
#include "einforge/nn/token_layer.h"

namespace einforge::nn {

struct MoeOptions {
  std::int64_t experts = 16;
  std::int64_t active = 2;
  // One more expert that every token takes, with gate 1.
  bool shared_expert = false;
  // Has no router of its own; forward() is given its routing by whoever holds
  // one, as queries, keys and values can share theirs.
  bool external_router = false;
  RouterOptions router;
};

// What mixtures of experts have in common: who takes which token. Without a
// router, forward() throws std::logic_error unless it is given a routing.
class MoeLayer : public TokenLayer {
 public:
  // Null when it is external.
  const std::shared_ptr<MoeRouter>& router() const { return router_; }
  std::int64_t experts() const { return options_.experts; }
  std::int64_t active() const { return options_.active; }

 protected:
  MoeLayer(
      std::int64_t d_in,
      const MoeOptions& options,
      std::int64_t base_width,
      const at::Generator& generator);

  ops::MoeRouting route(
      const torch::Tensor& x, const std::optional<ops::MoeRouting>& given);

 private:
  MoeOptions options_;
  std::shared_ptr<MoeRouter> router_;
};

}  // namespace einforge::nn
