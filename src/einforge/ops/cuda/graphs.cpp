#include "einforge/ops/cuda/graphs.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <vector>

namespace einforge::ops {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

}  // namespace

struct CudaGraphs::Recorded {
  explicit Recorded(c10::DeviceIndex index) : device(index) {
    allocator::createOrIncrefPool(device, pool);
  }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() {
    try {
      c10::cuda::device_synchronize();
      for (cudaGraphExec_t part : parts) {
        C10_CUDA_CHECK(cudaGraphExecDestroy(part));
      }
      allocator::releasePool(device, pool);
      allocator::emptyCache();
    } catch (const std::exception&) {
      // A device that has failed has nothing to give back.
    }
  }

  c10::DeviceIndex device;
  c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  std::vector<cudaGraphExec_t> parts;
};

namespace {

// While it lives, what is allocated for the stream comes from the pool.
class FromPool {
 public:
  FromPool(c10::DeviceIndex device, c10::MempoolId_t pool, cudaStream_t stream)
      : device_(device), pool_(pool) {
    allocator::beginAllocateToPool(
        device, pool, [stream](cudaStream_t of) { return of == stream; });
  }
  FromPool(const FromPool&) = delete;
  FromPool& operator=(const FromPool&) = delete;
  ~FromPool() {
    allocator::endAllocateToPool(device_, pool_);
    allocator::releasePool(device_, pool_);  // which begin has counted
  }

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
};

}  // namespace

CudaGraphs::CudaGraphs(torch::Device device)
    : recorded_(std::make_unique<Recorded>(device.index())) {
  // The allocator gives back what it keeps when memory is short, but not while
  // something is being recorded.
  allocator::emptyCache();
}

CudaGraphs::~CudaGraphs() = default;

std::size_t CudaGraphs::record(const std::function<void()>& work) {
  const auto stream = c10::cuda::getCurrentCUDAStream(recorded_->device);
  cudaGraph_t graph = nullptr;
  cudaError_t status = cudaSuccess;
  std::exception_ptr error;
  {
    const FromPool memory(recorded_->device, recorded_->pool, stream);
    C10_CUDA_CHECK(
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    status = cudaStreamEndCapture(stream, &graph);
  }
  cudaGraphExec_t part = nullptr;
  if (error == nullptr && status == cudaSuccess) {
    status = cudaGraphInstantiate(&part, graph, /*flags=*/0);
  }
  if (graph != nullptr) {
    static_cast<void>(cudaGraphDestroy(graph));
  }
  if (error != nullptr) {
    static_cast<void>(cudaGetLastError());  // which the next check would find
    std::rethrow_exception(error);
  }
  C10_CUDA_CHECK(status);
  recorded_->parts.push_back(part);
  return recorded_->parts.size() - 1;
}

void CudaGraphs::repeat(std::size_t part) const {
  C10_CUDA_CHECK(cudaGraphLaunch(
      recorded_->parts.at(part),
      c10::cuda::getCurrentCUDAStream(recorded_->device)));
}

void CudaGraphs::lend_memory(const std::function<void()>& work) {
  const FromPool memory(
      recorded_->device,
      recorded_->pool,
      c10::cuda::getCurrentCUDAStream(recorded_->device));
  work();
}

}  // namespace einforge::ops
