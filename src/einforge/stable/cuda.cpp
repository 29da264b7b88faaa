#include "einforge/stable/cuda.h"

#include <dlfcn.h>

namespace einforge::stable {
namespace {

using CurrentStream = AOTITorchError (*)(std::int32_t device, void** stream);

CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  return library == nullptr
             ? nullptr
             : reinterpret_cast<CurrentStream>(
                   dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

}  // namespace

cudaStream_t current_cuda_stream() {
  static const CurrentStream find = find_current_stream();
  TORCH_CHECK(find != nullptr, "[einforge] expected a torch with CUDA");
  int device = 0;
  check_cuda(cudaGetDevice(&device));
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(find(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) {
    cudaGetLastError();
    throw Error(std::string("CUDA error: ") + cudaGetErrorString(error));
  }
}

}  // namespace einforge::stable
