#pragma once

namespace einforge::kernels::cuda {

struct Softmax {
  float most;
  float sum;

  __device__ __forceinline__ float share(float logit) const {
    return expf(logit - most) / sum;
  }
};

__device__ __forceinline__ Softmax
softmax_of_all(const float* logits, int experts) {
  float most = logits[0];
  for (int e = 1; e < experts; ++e) {
    most = fmaxf(most, logits[e]);
  }
  float sum = 0.0F;
  for (int e = 0; e < experts; ++e) {
    sum += expf(logits[e] - most);
  }
  return {most, sum};
}

}  // namespace einforge::kernels::cuda
