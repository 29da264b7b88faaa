#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/distributed/world.h"
#include "einforge/nn/moe_router.h"

namespace einforge::train {

// What one router did with the tokens of a micro-batch.
struct RouterRow {
  std::string layer;  // the mixture's dotted name: "blocks_0.attention.q"
  std::int64_t active = 1;
  nn::RouterHealth health;

  // T
  std::int64_t tokens() const;
};

// {"layer", "active", "tokens": [of each expert], "token_entropy",
//  "aggregate_entropy", "balance_loss", "z_loss", "dead", "largest_share"};
// docs/moe.md says what they mean.
base::Json to_json(const RouterRow& row);
// The row that to_json() wrote. Throws base::Json::exception.
RouterRow router_row(const base::Json& json);

struct RouterWarning {
  std::string layer;
  std::string kind;  // "dead" or "overloaded"
  std::vector<std::int64_t> experts;
  std::string took;  // by them: "none" or "73%" of so many tokens
  std::int64_t tokens = 0;
  // The first and the last of the rows, one after the other, that had it of
  // each of these experts.
  std::int64_t since = 0;
  std::int64_t step = 0;

  // Names layer and experts.
  std::string message() const;
};

// {"layer", "kind", "experts", "since", "step", "message"}, the message with
// the steps.
base::Json to_json(const RouterWarning& warning);

// Experts that took no token, and one that took more than half of them. Where
// k / E is a third or more, half is no sign of trouble: more than 1.5 times an
// even share is. None for a micro-batch of fewer than 16 E assignments, where
// chance alone leaves experts without.
std::vector<RouterWarning> find_warnings(
    const RouterRow& row, std::int64_t step);

// Which warnings last: what is so in one row of a log may be a moment's, above
// all while routers part at the start of a run; of the same expert in two rows
// it is not.
class RouterWarnings {
 public:
  // Takes what was found in a row; returns what has now lasted for two.
  std::vector<RouterWarning> add(const std::vector<RouterWarning>& found);

  // Of each layer and kind the experts of which it lasted at the latest, since
  // all of them had it.
  const std::vector<RouterWarning>& lasting() const { return lasting_; }

  // All that add() depends on, for checkpoints.
  base::Json state() const;
  // Throws base::Json::exception.
  void restore(const base::Json& state);

 private:
  std::vector<RouterWarning> last_row_;  // those of one `since` together
  std::vector<RouterWarning> lasting_;
};

// The routers of a model, as a trainer deals with them.
class RouterWatch {
 public:
  // The model and the world, over whose processes a batch is spread, must
  // outlive it. `reduce`: mean or sum, of the losses.
  RouterWatch(
      torch::nn::Module& model, std::string reduce, distributed::World& world);

  bool empty() const { return routers_.empty(); }

  // The mean or the sum of the routers' weighted losses of the last forward
  // pass; undefined where there is none.
  torch::Tensor loss() const;
  // Moves the balancing biases; once an optimiser step.
  void update_biases();

  // Of the last forward pass: what rows are made of, on the device.
  torch::Tensor health_sums() const;
  // Adds those of other processes to them; waits for the device.
  std::vector<RouterRow> rows(const torch::Tensor& sums) const;

  // Forward passes while it lives leave no trace in health_sums().
  class Aside {
   public:
    explicit Aside(RouterWatch& watch);
    Aside(const Aside&) = delete;
    Aside& operator=(const Aside&) = delete;
    ~Aside();

   private:
    RouterWatch& watch_;
    std::vector<nn::MoeRouter::Seen> seen_;
  };

 private:
  std::vector<std::pair<std::string, nn::MoeRouter*>> routers_;
  std::string reduce_;
  distributed::World& world_;
};

}  // namespace einforge::train
