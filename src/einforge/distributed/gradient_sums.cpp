#include "einforge/distributed/gradient_sums.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace einforge::distributed {

class GradientSums::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientSums& sums, std::size_t bucket) : sums_(sums), bucket_(bucket) {}
  void operator()(const torch::autograd::Variable&) override {
    sums_.arrived(bucket_);
  }

 private:
  GradientSums& sums_;
  std::size_t bucket_;
};

GradientSums::GradientSums(
    World& world,
    std::vector<torch::Tensor> parameters,
    std::int64_t bucket_bytes)
    : world_(world) {
  if (world_.is_alone()) {
    return;
  }
  std::ranges::reverse(parameters);
  std::int64_t bytes = bucket_bytes;  // begins the first
  for (torch::Tensor& parameter : parameters) {
    TORCH_CHECK(
        parameter.is_non_overlapping_and_dense(),
        "[gradient_sums] expected parameters that are dense in memory; got "
        "strides ",
        parameter.strides());
    if (bytes + static_cast<std::int64_t>(parameter.nbytes()) > bucket_bytes) {
      buckets_.emplace_back();
      bytes = 0;
    }
    bytes += static_cast<std::int64_t>(parameter.nbytes());
    buckets_.back().slots.push_back({std::move(parameter), {}});
  }
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    Bucket& bucket = buckets_[b];
    std::int64_t numel = 0;
    for (const Slot& slot : bucket.slots) {
      numel += slot.parameter.numel();
    }
    bucket.flat = torch::empty(
        {numel}, bucket.slots.front().parameter.options().requires_grad(false));
    std::int64_t offset = 0;
    for (Slot& slot : bucket.slots) {
      // With the parameter's strides: optimisers walk memory.
      slot.sum = bucket.flat.as_strided(
          slot.parameter.sizes(), slot.parameter.strides(), offset);
      offset += slot.parameter.numel();
      torch::autograd::impl::set_post_acc_grad_hooks(
          slot.parameter, std::make_unique<Hook>(*this, b));
    }
  }
}

GradientSums::~GradientSums() {
  for (const Bucket& bucket : buckets_) {
    for (const Slot& slot : bucket.slots) {
      torch::autograd::impl::set_post_acc_grad_hooks(slot.parameter, nullptr);
    }
  }
}

void GradientSums::expect() {
  expecting_ = true;
  next_ = 0;
  for (Bucket& bucket : buckets_) {
    bucket.missing = bucket.slots.size();
  }
}

// In the thread of the backward pass.
void GradientSums::arrived(std::size_t bucket) {
  if (!expecting_) {
    return;
  }
  --buckets_[bucket].missing;
  // In one order everywhere.
  for (; next_ < buckets_.size() && buckets_[next_].missing == 0; ++next_) {
    const torch::NoGradGuard no_grad;
    std::vector<torch::Tensor> sums;
    std::vector<torch::Tensor> gradients;
    for (const Slot& slot : buckets_[next_].slots) {
      sums.push_back(slot.sum);
      gradients.push_back(slot.parameter.grad());
    }
    at::_foreach_copy_(sums, gradients);
    for (Slot& slot : buckets_[next_].slots) {
      slot.parameter.mutable_grad() = slot.sum;
    }
    pending_.push_back(world_.start_sum(buckets_[next_].flat));
  }
}

void GradientSums::finish() {
  expecting_ = false;
  for (const Bucket& bucket : buckets_) {
    TORCH_CHECK(
        bucket.missing == 0,
        "[gradient_sums] ",
        bucket.missing,
        " of ",
        bucket.slots.size(),
        " parameters of a bucket have no gradient");
  }
  for (World::Sum& sum : pending_) {
    sum.wait();
  }
  pending_.clear();
}

}  // namespace einforge::distributed
