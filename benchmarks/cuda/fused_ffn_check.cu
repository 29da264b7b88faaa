// Checks the fused feed-forward network against float64 on random problems,
// then times it beside cuBLAS's dense one.
//
//   fused_ffn_check check SEED
//   fused_ffn_check time
//
// Exits 1 when a check fails.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.cuh"
#include "einforge/kernels/cuda/fused_ffn.h"
#include "einforge/kernels/cuda/fused_ffn/backward.cuh"
#include "einforge/kernels/cuda/fused_ffn/forward.cuh"

namespace ek = einforge::kernels::cuda;
namespace ff = einforge::kernels::cuda::fused_ffn;

namespace {

// alpha, gamma, middle, hidden, phi, epsilon, tokens, slots
constexpr ff::FfnShape kShapes[] = {
    {32, 32, 64, 64, 32, 32, 48, 2},
    {32, 32, 64, 64, 32, 32, 32, 4},
    {32, 16, 32, 64, 16, 32, 64, 4},
    {32, 24, 48, 64, 24, 32, 64, 2},
    {24, 16, 32, 48, 8, 20, 32, 2},
    {16, 16, 32, 32, 16, 16, 32, 3}};

// By number, as nvcc's stubs do not take a shape.
template <int kShape>
__global__ void __launch_bounds__(32 * ff::kForwardWarps, 1)
    forward_kernel(const __grid_constant__ ff::FfnParams params) {
  ff::run_forward<kShapes[kShape]>(params);
}

struct Entry {
  ff::FfnShape shape;
  const void* kernel;
};

template <int... kShape>
std::vector<Entry> all_entries(std::integer_sequence<int, kShape...>) {
  return {
      {kShapes[kShape],
       reinterpret_cast<const void*>(&forward_kernel<kShape>)}...};
}
std::vector<Entry> entries() {
  return all_entries(
      std::make_integer_sequence<int, static_cast<int>(std::size(kShapes))>());
}

void launch(const Entry& e, const ff::FfnParams& params, int64_t blocks = 132) {
  CHECK(cudaFuncSetAttribute(
      e.kernel,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      e.shape.shared_bytes()));
  const int64_t tiles = (params.tokens + 15) / 16;
  ff::FfnParams copy = params;
  void* arguments[] = {&copy};
  CHECK(cudaLaunchKernel(
      e.kernel,
      dim3(static_cast<unsigned>(std::min(tiles, blocks))),
      dim3(32 * ff::kForwardWarps),
      arguments,
      static_cast<size_t>(e.shape.shared_bytes()),
      nullptr));
}

// gamma, middle, hidden, phi, tokens, slots
constexpr ff::MiddleShape kMiddleShapes[] = {
    {32, 64, 64, 32, 16, 4},
    {32, 64, 64, 32, 16, 3},
    {24, 48, 64, 24, 16, 4},
    {16, 32, 48, 8, 16, 2},
    {8, 8, 16, 32, 16, 3}};

template <int kShape>
__global__ void __launch_bounds__(32 * ff::kMiddleWarps, 1)
    middle_kernel(const __grid_constant__ ff::MiddleParams params) {
  ff::run_middle<kMiddleShapes[kShape]>(params);
}

template <int... kShape>
std::vector<const void*> all_middle(std::integer_sequence<int, kShape...>) {
  return {reinterpret_cast<const void*>(&middle_kernel<kShape>)...};
}

void launch(const ff::MiddleShape& s, const ff::MiddleParams& params) {
  static const auto kernels =
      all_middle(std::make_integer_sequence<
                 int,
                 static_cast<int>(std::size(kMiddleShapes))>());
  int i = 0;
  while (std::memcmp(&kMiddleShapes[i], &s, sizeof s) != 0) {
    ++i;
  }
  CHECK(cudaFuncSetAttribute(
      kernels[i],
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      s.shared_bytes()));
  ff::MiddleParams copy = params;
  void* arguments[] = {&copy};
  CHECK(cudaLaunchKernel(
      kernels[i],
      dim3(static_cast<unsigned>(params.splits * s.row_blocks())),
      dim3(32 * ff::kMiddleWarps),
      arguments,
      static_cast<size_t>(s.shared_bytes()),
      nullptr));
}

std::string name_of(const ff::FfnShape& s, int64_t tokens) {
  char text[128];
  std::snprintf(
      text,
      sizeof text,
      "%d,%d|%d,%d|%d,%d tile %d slots %d x %lld",
      s.alpha,
      s.gamma,
      s.hidden,
      s.middle,
      s.epsilon,
      s.phi,
      s.tokens,
      s.slots,
      static_cast<long long>(tokens));
  return text;
}

double gelu(double v) {
  return 0.5 * v *
         (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}

int failures = 0;

struct Cores {
  std::vector<Bf16> a1, b1, a2, b2, bias1, bias2;
  Cores(const ff::FfnShape& s, std::mt19937& random)
      : a1(random_values(
            static_cast<size_t>(s.alpha) * s.gamma * s.middle,
            random,
            1.0F / std::sqrt(static_cast<float>(s.alpha)))),
        b1(random_values(
            static_cast<size_t>(s.gamma) * s.middle * s.hidden,
            random,
            1.5F / std::sqrt(static_cast<float>(s.gamma)))),
        a2(random_values(
            static_cast<size_t>(s.hidden) * s.middle * s.phi,
            random,
            1.5F / std::sqrt(static_cast<float>(s.hidden)))),
        b2(random_values(
            static_cast<size_t>(s.middle) * s.phi * s.epsilon,
            random,
            1.0F / std::sqrt(static_cast<float>(s.middle)))),
        bias1(random_values(
            static_cast<size_t>(s.hidden) * s.middle, random, 0.5F)),
        bias2(random_values(
            static_cast<size_t>(s.epsilon) * s.phi, random, 0.5F)) {}
};

// A: (gamma, alpha, phi); B: (phi, gamma, epsilon), as layers have them.
ek::BttCores cores_of(
    const Bf16* a, const Bf16* b, int alpha, int gamma, int phi, int epsilon) {
  ek::BttCores c;
  c.a = a;
  c.b = b;
  c.a_strides = {.in = phi, .gamma = int64_t{alpha} * phi, .phi = 1, .rho = 1};
  c.b_strides = {
      .in = 1, .gamma = epsilon, .phi = int64_t{gamma} * epsilon, .rho = 1};
  return c;
}

struct Device {
  Buffer<Bf16> a1, b1, a2, b2, bias1, bias2;
  Buffer<char> packed;
  Device(const ff::FfnShape& s, const Cores& c, bool bias)
      : a1(c.a1),
        b1(c.b1),
        a2(c.a2),
        b2(c.b2),
        bias1(c.bias1),
        bias2(c.bias2),
        packed(ff::packed_bytes(s)) {
    CHECK(pack(s, bias));
  }
  cudaError_t pack(const ff::FfnShape& s, bool bias) {
    return ff::pack(
        s,
        cores_of(a1.data, b1.data, s.alpha, s.gamma, s.middle, s.hidden),
        cores_of(a2.data, b2.data, s.hidden, s.middle, s.phi, s.epsilon),
        bias ? bias1.data : nullptr,
        packed.data,
        nullptr);
  }
};

std::vector<double> doubles(const std::vector<Bf16>& v) {
  std::vector<double> d(v.size());
  std::transform(v.begin(), v.end(), d.begin(), [](Bf16 e) {
    return static_cast<double>(__bfloat162float(e));
  });
  return d;
}

void check(const Entry& e, int tokens, bool bias, std::mt19937& random) {
  const ff::FfnShape& s = e.shape;
  const Cores cores(s, random);
  const int d_in = s.alpha * s.gamma;
  const int d_out = s.epsilon * s.phi;
  const auto x = random_values(static_cast<size_t>(tokens) * d_in, random, 1);
  const auto a1 = doubles(cores.a1);
  const auto b1 = doubles(cores.b1);
  const auto a2 = doubles(cores.a2);
  const auto b2 = doubles(cores.b2);
  const auto bias1 = doubles(cores.bias1);
  const auto bias2 = doubles(cores.bias2);
  std::vector<double> y(static_cast<size_t>(tokens) * d_out);
  std::vector<double> z1(static_cast<size_t>(s.gamma) * s.middle);
  std::vector<double> h(static_cast<size_t>(s.hidden) * s.middle);
  std::vector<double> z2(static_cast<size_t>(s.middle) * s.phi);
  for (int t = 0; t < tokens; ++t) {
    std::fill(z1.begin(), z1.end(), 0.0);
    for (int g = 0; g < s.gamma; ++g) {
      for (int a = 0; a < s.alpha; ++a) {
        const double v = __bfloat162float(x[t * d_in + a * s.gamma + g]);
        for (int p = 0; p < s.middle; ++p) {
          z1[p * s.gamma + g] += v * a1[(g * s.alpha + a) * s.middle + p];
        }
      }
    }
    std::fill(z2.begin(), z2.end(), 0.0);
    for (int p = 0; p < s.middle; ++p) {
      for (int n = 0; n < s.hidden; ++n) {
        double sum = bias ? bias1[n * s.middle + p] : 0;
        for (int g = 0; g < s.gamma; ++g) {
          sum += z1[p * s.gamma + g] * b1[(p * s.gamma + g) * s.hidden + n];
        }
        const double v = gelu(sum);
        // A2: gamma of the second layer is p, its alpha n.
        for (int f = 0; f < s.phi; ++f) {
          z2[p * s.phi + f] += v * a2[(p * s.hidden + n) * s.phi + f];
        }
      }
    }
    for (int f = 0; f < s.phi; ++f) {
      for (int ep = 0; ep < s.epsilon; ++ep) {
        double sum = bias ? bias2[ep * s.phi + f] : 0;
        for (int p = 0; p < s.middle; ++p) {
          sum += z2[p * s.phi + f] * b2[(f * s.middle + p) * s.epsilon + ep];
        }
        y[static_cast<size_t>(t) * d_out + ep * s.phi + f] = sum;
      }
    }
  }
  const Buffer<Bf16> x_d(x);
  Buffer<Bf16> y_d(static_cast<size_t>(tokens) * d_out + 64);
  Device device(s, cores, bias);
  std::vector<Bf16> before;
  for (int repeat = 0; repeat < 2; ++repeat) {
    y_d.poison();
    launch(
        e,
        {reinterpret_cast<const uint16_t*>(x_d.data),
         reinterpret_cast<uint16_t*>(y_d.data),
         device.packed.data,
         bias ? reinterpret_cast<const uint16_t*>(device.bias2.data) : nullptr,
         tokens},
        2);  // a block has several tiles
    const auto now = y_d.host();
    if (repeat == 1 &&
        std::memcmp(now.data(), before.data(), 2 * now.size()) != 0) {
      ++failures;
      std::printf("FAIL %s: not repeated\n", name_of(s, tokens).c_str());
    }
    before = now;
  }
  double error = 0;
  double norm = 0;
  bool finite = true;
  for (size_t i = 0; i < y.size(); ++i) {
    const double v = __bfloat162float(before[i]);
    finite = finite && std::isfinite(v);
    error += (v - y[i]) * (v - y[i]);
    norm += y[i] * y[i];
  }
  bool beyond = false;  // what is past the last token was written
  for (size_t i = y.size(); i < before.size(); ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, &before[i], 2);
    beyond = beyond || bits != 0xFFFF;
  }
  const double relative = std::sqrt(error / norm);
  const bool ok = finite && relative < 6e-3 && !beyond;
  failures += ok ? 0 : 1;
  std::printf(
      "%s %s%s: %.2e%s%s\n",
      ok ? "ok" : "FAIL",
      name_of(s, tokens).c_str(),
      bias ? " bias" : "",
      relative,
      finite ? "" : ", not finite",
      beyond ? ", wrote past the end" : "");
  std::fflush(stdout);
}

double slope(double v) {
  constexpr double kStep = 1e-5;
  return (gelu(v + kStep) - gelu(v - kStep)) / (2 * kStep);
}

template <typename T>
void compare(
    const std::string& what,
    const std::vector<double>& expected,
    const std::vector<T>& found,
    double most) {
  double error = 0;
  double norm = 0;
  bool finite = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double v = static_cast<double>(found[i]);
    finite = finite && std::isfinite(v);
    error += (v - expected[i]) * (v - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-30));
  const bool ok = finite && relative < most;
  failures += ok ? 0 : 1;
  std::printf(
      "%s %s: %.2e%s\n",
      ok ? "ok" : "FAIL",
      what.c_str(),
      relative,
      finite ? "" : ", not finite");
  std::fflush(stdout);
}

void check_middle(
    const ff::MiddleShape& s, int tokens, int splits, std::mt19937& random) {
  // (vector, token, p, 8)
  const auto z1 = random_values(
      static_cast<size_t>(s.gamma) * tokens * s.middle, random, 1);
  const auto dz2 =
      random_values(static_cast<size_t>(s.phi) * tokens * s.middle, random, 1);
  ff::FfnShape whole{16, s.gamma, s.middle, s.hidden, s.phi, 16, 16, 2};
  const Cores cores(whole, random);
  const auto b1 = doubles(cores.b1);
  const auto a2 = doubles(cores.a2);
  const auto bias1 = doubles(cores.bias1);
  std::vector<double> dz1(z1.size());
  std::vector<double> z2(dz2.size());
  std::vector<double> db1(b1.size());
  std::vector<double> da2(a2.size());
  std::vector<double> dbias(bias1.size());
  const auto in = [&](int c, int t, int p) {
    return ((static_cast<size_t>(c / 8) * tokens + t) * s.middle + p) * 8 +
           c % 8;
  };
  const auto out = [&](int c, int t, int p, int columns) {
    return ((static_cast<size_t>(p / 8) * tokens + t) * columns + c) * 8 +
           p % 8;
  };
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < s.middle; ++p) {
      for (int n = 0; n < s.hidden; ++n) {
        double h = bias1[n * s.middle + p];
        for (int g = 0; g < s.gamma; ++g) {
          h += __bfloat162float(z1[in(g, t, p)]) *
               b1[(p * s.gamma + g) * s.hidden + n];
        }
        double dg = 0;
        const double v = gelu(h);
        for (int f = 0; f < s.phi; ++f) {
          const double d = __bfloat162float(dz2[in(f, t, p)]);
          const size_t at = (static_cast<size_t>(p) * s.hidden + n) * s.phi + f;
          dg += d * a2[at];
          z2[out(f, t, p, s.phi)] += v * a2[at];
          da2[at] += v * d;
        }
        const double dh = dg * slope(h);
        dbias[p * s.hidden + n] += dh;
        for (int g = 0; g < s.gamma; ++g) {
          dz1[out(g, t, p, s.gamma)] +=
              dh * b1[(p * s.gamma + g) * s.hidden + n];
          db1[(static_cast<size_t>(p) * s.hidden + n) * s.gamma + g] +=
              dh * __bfloat162float(z1[in(g, t, p)]);
        }
      }
    }
  }
  const Buffer<Bf16> z1_d(z1);
  const Buffer<Bf16> dz2_d(dz2);
  const Buffer<Bf16> b1_d(cores.b1);
  const Buffer<Bf16> a2_d(cores.a2);
  const Buffer<Bf16> bias_d(cores.bias1);
  const Buffer<char> packed(ff::packed_bytes(s));
  CHECK(ff::pack(
      s,
      cores_of(nullptr, b1_d.data, 16, s.gamma, s.middle, s.hidden),
      cores_of(a2_d.data, nullptr, s.hidden, s.middle, s.phi, 16),
      bias_d.data,
      packed.data,
      nullptr));
  Buffer<Bf16> dz1_d(z1.size());
  Buffer<Bf16> z2_d(dz2.size());
  Buffer<float> db1_d(db1.size() * splits);
  Buffer<float> da2_d(da2.size() * splits);
  Buffer<float> dbias_d(dbias.size() * splits);
  char text[128];
  std::snprintf(
      text,
      sizeof text,
      "middle %d|%d,%d|%d tile %d slots %d x %d splits %d ",
      s.gamma,
      s.hidden,
      s.middle,
      s.phi,
      s.tokens,
      s.slots,
      tokens,
      splits);
  const std::string name = text;
  const auto run = [&] {
    dz1_d.poison();
    z2_d.poison();
    db1_d.poison();
    da2_d.poison();
    dbias_d.poison();
    launch(
        s,
        {z1_d.data,
         dz2_d.data,
         dz1_d.data,
         z2_d.data,
         packed.data,
         db1_d.data,
         da2_d.data,
         dbias_d.data,
         tokens,
         splits});
  };
  run();
  const auto summed = [&](const Buffer<float>& sums) {
    const auto all = sums.host();
    std::vector<double> sum(all.size() / splits);
    for (size_t i = 0; i < all.size(); ++i) {
      sum[i % sum.size()] += all[i];
    }
    return sum;
  };
  const auto found_dz1 = dz1_d.host();
  const auto found_z2 = z2_d.host();
  const auto found_db1 = summed(db1_d);
  const auto found_da2 = summed(da2_d);
  compare(name + "dz1", dz1, doubles(found_dz1), 6e-3);
  compare(name + "z2", z2, doubles(found_z2), 6e-3);
  compare(name + "dB1", db1, found_db1, 6e-3);
  compare(name + "dA2", da2, found_da2, 6e-3);
  compare(name + "dbias1", dbias, summed(dbias_d), 6e-3);
  run();
  const auto again = dz1_d.host();
  if (std::memcmp(again.data(), found_dz1.data(), 2 * again.size()) != 0 ||
      summed(db1_d) != found_db1 || summed(da2_d) != found_da2) {
    ++failures;
    std::printf("FAIL %s: not repeated\n", name.c_str());
  }
}

// --- timing ----------------------------------------------------------------

__global__ void fill(uint16_t* out, size_t n) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    uint64_t v = i * 0x9E3779B97F4A7C15ULL + 12345;
    v ^= v >> 29;
    v *= 0xBF58476D1CE4E5B9ULL;
    v ^= v >> 32;
    // Of magnitude 2^-2 to 2^0, either sign.
    out[i] = static_cast<uint16_t>(
        (v & 0x8000U) | (0x3E80U + (static_cast<uint32_t>(v >> 20) & 0xFFU)));
  }
}

__global__ void gelu_all(uint4* data, size_t n) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) {
    const uint4 v = data[i];
    uint32_t words[4] = {v.x, v.y, v.z, v.w};
    for (uint32_t& w : words) {
      w = ek::ptx::round_pair(
          ff::gelu_of_half(0.5F * __uint_as_float(w << 16)),
          ff::gelu_of_half(0.5F * __uint_as_float(w & 0xFFFF0000U)));
    }
    data[i] = {words[0], words[1], words[2], words[3]};
  }
}

void time_all() {
  Flush flush;
  cublasHandle_t blas;
  cublasCreate(&blas);
  std::mt19937 random(1);
  for (const Entry& e : entries()) {
    const ff::FfnShape& s = e.shape;
    const int d_in = s.alpha * s.gamma;
    const int d_mid = s.hidden * s.middle;
    const int d_out = s.epsilon * s.phi;
    const Cores cores(s, random);
    Device device(s, cores, true);
    for (const int64_t tokens : {8192, 32768, 131072}) {
      Buffer<uint16_t> x(static_cast<size_t>(tokens) * d_in);
      Buffer<uint16_t> y(static_cast<size_t>(tokens) * d_out);
      fill<<<1024, 256>>>(x.data, x.size);
      const double alone = time_ms(flush, [&] {
        launch(
            e,
            {x.data,
             y.data,
             device.packed.data,
             reinterpret_cast<const uint16_t*>(device.bias2.data),
             tokens});
      });
      const double packed = time_ms(flush, [&] {
        CHECK(device.pack(s, true));
        launch(
            e,
            {x.data,
             y.data,
             device.packed.data,
             reinterpret_cast<const uint16_t*>(device.bias2.data),
             tokens});
      });
      double dense = 0;
      if (d_in == 1024) {
        Buffer<uint16_t> w1(static_cast<size_t>(d_in) * d_mid);
        Buffer<uint16_t> w2(static_cast<size_t>(d_mid) * d_out);
        Buffer<uint16_t> h(static_cast<size_t>(tokens) * d_mid);
        fill<<<1024, 256>>>(w1.data, w1.size);
        fill<<<1024, 256>>>(w2.data, w2.size);
        const float one = 1;
        const float zero = 0;
        const auto product = [&](const uint16_t* in,
                                 const uint16_t* w,
                                 uint16_t* out,
                                 int k,
                                 int n) {
          cublasGemmEx(
              blas,
              CUBLAS_OP_T,
              CUBLAS_OP_N,
              n,
              static_cast<int>(tokens),
              k,
              &one,
              w,
              CUDA_R_16BF,
              k,
              in,
              CUDA_R_16BF,
              k,
              &zero,
              out,
              CUDA_R_16BF,
              n,
              CUBLAS_COMPUTE_32F,
              CUBLAS_GEMM_DEFAULT);
        };
        dense = time_ms(flush, [&] {
          product(x.data, w1.data, h.data, d_in, d_mid);
          gelu_all<<<static_cast<unsigned>(h.size / 8 / 256), 256>>>(
              reinterpret_cast<uint4*>(h.data), h.size / 8);
          product(h.data, w2.data, y.data, d_mid, d_out);
        });
      }
      std::printf(
          "%s: %.4f ms, with packing %.4f, bytes' limit %.4f, dense %.4f "
          "(%.2f times)\n",
          name_of(s, tokens).c_str(),
          alone,
          packed,
          2.0 * static_cast<double>(tokens) * (d_in + d_out) / 4.2e9,
          dense,
          dense / packed);
      std::fflush(stdout);
    }
  }
  cublasDestroy(blas);
  for (const ff::MiddleShape& s : kMiddleShapes) {
    if (s.middle < 48) {
      continue;
    }
    for (const int tokens : {32768, 65536}) {
      const size_t in = static_cast<size_t>(s.gamma) * s.middle * tokens;
      Buffer<uint16_t> z1(in);
      Buffer<uint16_t> dz2(in);
      Buffer<uint16_t> dz1(in);
      Buffer<uint16_t> z2(in);
      fill<<<1024, 256>>>(z1.data, z1.size);
      fill<<<1024, 256>>>(dz2.data, dz2.size);
      const int splits = ff::splits_of(s, tokens, ek::DeviceLimits{});
      Buffer<uint16_t> packed(ff::packed_bytes(s) / 2);
      fill<<<1024, 256>>>(packed.data, packed.size);
      const size_t sums = static_cast<size_t>(splits) * s.middle * s.hidden;
      Buffer<float> db1(sums * s.gamma);
      Buffer<float> da2(sums * s.phi);
      Buffer<float> dbias(sums);
      const double ms = time_ms(flush, [&] {
        launch(
            s,
            {z1.data,
             dz2.data,
             dz1.data,
             z2.data,
             packed.data,
             db1.data,
             da2.data,
             dbias.data,
             tokens,
             splits});
      });
      std::printf(
          "middle %d|%d,%d|%d tile %d slots %d x %d: %.4f ms, %.0f GB/s\n",
          s.gamma,
          s.hidden,
          s.middle,
          s.phi,
          s.tokens,
          s.slots,
          tokens,
          ms,
          8.0 * static_cast<double>(in) * 1e-6 / ms);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "time") {
    time_all();
    return 0;
  }
  std::mt19937 random(argc > 2 ? std::atoi(argv[2]) : 1);
  const bool small = mode == "sanitize";
  for (const Entry& e : entries()) {
    for (const int tokens : small ? std::vector<int>{19, 133}
                                  : std::vector<int>{1, 19, 48, 133, 601}) {
      check(e, tokens, tokens % 2 != 0, random);
    }
  }
  for (const ff::MiddleShape& s : kMiddleShapes) {
    check_middle(s, 1, 1, random);
    check_middle(s, small ? 37 : 333, 3, random);
  }
  CHECK(cudaDeviceSynchronize());
  std::printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
