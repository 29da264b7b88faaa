#include "einforge/kernels/cuda/fused_ffn/plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace einforge::kernels::cuda::fused_ffn {
namespace {

// Registers of a thread for the weights of the first or the last stage.
constexpr int kWeightRegisters = 64;
constexpr int kMostWidth = 32;   // gamma and phi, vectors of four lanes
constexpr int kMostHidden = 64;  // whose products a warp has in registers
constexpr int kMostTokens = 64;
constexpr int kMostSlots = 4;

bool is_width(int size) {
  return size > 0 && size % 8 == 0 && size <= kMostWidth;
}

// Both kernels take a hidden grid of (epsilon, phi) of the first layer that the
// second reads as its (alpha, gamma).
bool suits(const FfnSizes& s) {
  return s.in.rho == 1 && s.out.rho == 1 && s.in.phi == s.out.gamma &&
         s.in.epsilon == s.out.alpha && is_width(s.in.gamma) &&
         is_width(s.out.phi) && s.in.epsilon % 16 == 0 &&
         s.in.epsilon <= kMostHidden;
}

bool is_legal(const FfnShape& s, const two_pass::Device& device) {
  const int in_units = (s.in_units() + kForwardWarps - 1) / kForwardWarps;
  return s.middle % 16 == 0 && s.out_units() <= kForwardWarps &&
         16 * s.out_tiles() <= s.middle &&
         32 * in_units * s.in_steps() <= kWeightRegisters &&
         16 * s.out_steps() <= kWeightRegisters &&
         s.shared_bytes() <= device.shared_bytes;
}

}  // namespace

std::optional<FfnShape> forward_shape(
    const FfnSizes& sizes, const two_pass::Device& device) {
  if (!suits(sizes)) {
    return std::nullopt;
  }
  // The most tokens of a tile, as the weights come once a tile.
  for (int tokens = kMostTokens; tokens > 0; tokens -= 16) {
    for (int slots = kMostSlots; slots >= 2; --slots) {
      const FfnShape shape{
          .alpha = sizes.in.alpha,
          .gamma = sizes.in.gamma,
          .middle = sizes.in.phi,
          .hidden = sizes.in.epsilon,
          .phi = sizes.out.phi,
          .epsilon = sizes.out.epsilon,
          .tokens = tokens,
          .slots = slots};
      if (is_legal(shape, device)) {
        return shape;
      }
    }
  }
  return std::nullopt;
}

std::optional<MiddleShape> middle_shape(
    const FfnSizes& sizes, const two_pass::Device& device) {
  MiddleShape shape{
      .gamma = sizes.in.gamma,
      .middle = sizes.in.phi,
      .hidden = sizes.in.epsilon,
      .phi = sizes.out.phi,
      .tokens = 16,
      .slots = kMostSlots};
  while (shape.slots > 2 && shape.shared_bytes() > device.shared_bytes) {
    --shape.slots;
  }
  return suits(sizes) && shape.middle % 8 == 0 &&
                 shape.shared_bytes() <= device.shared_bytes
             ? std::optional(shape)
             : std::nullopt;
}

std::string source_of(const FfnShape& s) {
  return fmt::format(
      "#include \"einforge/kernels/cuda/fused_ffn/forward.cuh\"\n"
      "using namespace einforge::kernels::cuda::fused_ffn;\n"
      "constexpr FfnShape kShape{{{}, {}, {}, {}, {}, {}, {}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ FfnParams params) {{\n"
      "  run_forward<kShape>(params);\n"
      "}}\n",
      s.alpha,
      s.gamma,
      s.middle,
      s.hidden,
      s.phi,
      s.epsilon,
      s.tokens,
      s.slots,
      32 * kForwardWarps,
      two_pass::kKernelName);
}

std::string source_of(const MiddleShape& s) {
  return fmt::format(
      "#include \"einforge/kernels/cuda/fused_ffn/backward.cuh\"\n"
      "using namespace einforge::kernels::cuda::fused_ffn;\n"
      "constexpr MiddleShape kShape{{{}, {}, {}, {}, {}, {}}};\n"
      "extern \"C\" __global__ void __launch_bounds__({}, 1)\n"
      "{}(const __grid_constant__ MiddleParams params) {{\n"
      "  run_middle<kShape>(params);\n"
      "}}\n",
      s.gamma,
      s.middle,
      s.hidden,
      s.phi,
      s.tokens,
      s.slots,
      32 * kMiddleWarps,
      two_pass::kKernelName);
}

}  // namespace einforge::kernels::cuda::fused_ffn
