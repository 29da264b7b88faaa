#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "einforge/distributed/world.h"

namespace einforge::distributed {

// Sums the gradients of parameters over all processes while the backward pass
// goes on: parameters lie in buckets, the last first, as their gradients come
// in about that order; a bucket that is full is sent. Buckets depend on the
// parameters alone, so that sums are the same bits in each run.
// Source: arXiv 2006.15704, section 3.2 (buckets, overlap).
class GradientSums {
 public:
  static constexpr std::int64_t kBucketBytes = 25 << 20;

  // `parameters`: leaves of one dtype and device, dense in memory. The world
  // must outlive it, and it the parameters' last backward pass.
  GradientSums(
      World& world,
      std::vector<torch::Tensor> parameters,
      std::int64_t bucket_bytes = kBucketBytes);
  ~GradientSums();
  GradientSums(const GradientSums&) = delete;
  GradientSums& operator=(const GradientSums&) = delete;

  // The next backward pass completes the gradients. Without it gradients
  // accumulate.
  void expect();
  // Waits for the sums; they are the parameters' gradients. Throws c10::Error
  // where a parameter had none.
  void finish();

 private:
  struct Slot {
    torch::Tensor parameter;
    torch::Tensor sum;  // part of the bucket's
  };
  struct Bucket {
    torch::Tensor flat;
    std::vector<Slot> slots;
    std::size_t missing = 0;
  };
  class Hook;

  void arrived(std::size_t bucket);

  World& world_;
  std::vector<Bucket> buckets_;
  std::size_t next_ = 0;  // to send
  bool expecting_ = false;
  std::vector<World::Sum> pending_;
};

}  // namespace einforge::distributed
