#pragma once

#include <torch/types.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace einforge::ops {

// Work on a GPU that is recorded part by part and then repeated: a CUDA graph
// of each part, whose kernels the host launches at once.
//
// What the parts allocate lies in memory of their own. They share what is
// temporary, and so must be repeated in the order in which they were recorded;
// each may be several times before the next, or be left out. A tensor that was
// made while they were recorded and is still alive keeps its place, and has
// after a repetition what that has computed.
//
// All calls are for one device and one stream, the current one, which must not
// be the default one.
class CudaGraphs {
 public:
  // Throws c10::Error in a build without CUDA or with an allocator of torch's
  // that cannot.
  explicit CudaGraphs(torch::Device device);
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;
  // Waits for the device.
  ~CudaGraphs();

  // Records what `work` launches, on any thread, as the next part, without
  // running it, and returns its number. Throws what `work` throws, or
  // c10::Error where it did what no graph holds: waited for the device, or drew
  // random numbers.
  std::size_t record(const std::function<void()>& work);

  // Repeats a part; does not wait for it.
  void repeat(std::size_t part) const;

  // Runs `work` now, between repetitions, in the memory of what is temporary
  // in the parts. No tensor that it makes may outlive it.
  void lend_memory(const std::function<void()>& work);

 private:
  struct Recorded;
  std::unique_ptr<Recorded> recorded_;
};

}  // namespace einforge::ops
