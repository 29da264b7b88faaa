#pragma once

#include <torch/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "einforge/distributed/peer_failed.h"
#include "einforge/distributed/place.h"

namespace einforge::distributed {

// The processes that train one model together, over c10d: NCCL between GPUs,
// Gloo between CPUs. All of them make the same calls in the same order. A
// world of one does nothing.
//
// Every process tells all others that it lives, from a thread of its own. One
// that has not for `patience` is named on standard error, and the process
// ends with exit code 1; one that left is a PeerFailed of the call that wanted
// it. Nothing hangs for longer, whatever the others do.
class World {
 public:
  // A sum that goes on; the tensor must not be touched before wait().
  class Sum {
   public:
    explicit Sum(std::function<void()> wait) : wait_(std::move(wait)) {}
    // From then on the device's stream sees the sum.
    void wait() { wait_(); }

   private:
    std::function<void()> wait_;
  };

  // Of one process.
  World();
  // Waits for the others, at most `patience`. `device` is where the tensors
  // will be. Throws PeerFailed where they do not come.
  World(
      const Place& place, torch::Device device, std::chrono::seconds patience);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  // Leaves. Where all goes well, leave() comes first.
  ~World();

  int rank() const { return place_.rank; }
  int size() const { return place_.size; }
  int local_rank() const { return place_.local_rank; }
  bool is_first() const { return place_.rank == 0; }
  bool is_alone() const { return place_.size == 1; }

  // Over all processes, in place; the same bits in each, and in each run of as
  // many processes.
  void sum(const torch::Tensor& tensor);
  Sum start_sum(const torch::Tensor& tensor);
  // The sum over all, in float64.
  double sum(double value);
  // What `from` has becomes what all have.
  void broadcast(const torch::Tensor& tensor, int from = 0);
  std::string broadcast(std::string text);

  // Rank 0 does it; all wait. What it throws there, is a PeerFailed elsewhere.
  void on_first(const std::function<void()>& action);

  // Waits until all have come so far and leaves in an order in which nobody
  // misses anybody.
  void leave();

 private:
  class Connection;

  Place place_;
  torch::Device device_ = torch::kCPU;
  std::unique_ptr<Connection> connection_;
};

}  // namespace einforge::distributed
