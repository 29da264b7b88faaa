// Checks the two-pass kernels against float64 on random layers and mixtures,
// then times what plan.h proposes.
//
//   two_pass_check check SEED COUNT   random problems
//   two_pass_check sanitize           a few small ones
//   two_pass_check time CANDIDATES    the layers of a list, every stage
//
// Exits 1 when a check fails.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.cuh"
#include "einforge/kernels/cuda/btt_weight_grad.h"
#include "einforge/kernels/cuda/two_pass.h"
#include "einforge/kernels/cuda/two_pass/layer.h"
#include "einforge/kernels/jit/kernel_cache.h"

namespace ek = einforge::kernels::cuda;
namespace tp = einforge::kernels::cuda::two_pass;
namespace jit = einforge::kernels::jit;

namespace {

jit::KernelCache& cache() {
  static jit::KernelCache all(std::string(
      std::getenv("KERNEL_CACHE") != nullptr ? std::getenv("KERNEL_CACHE")
                                             : "/tmp/two_pass_kernels"));
  return all;
}

std::vector<tp::LoadedKernel> loaded(const std::vector<std::string>& sources) {
  std::vector<tp::LoadedKernel> kernels;
  for (const auto& cubin : cache().get(sources, "sm_90a")) {
    if (!cubin) {
      std::exit(2);
    }
    tp::LoadedKernel kernel;
    CHECK(tp::load(*cubin, &kernel));
    kernels.push_back(kernel);
  }
  return kernels;
}

const ek::DeviceLimits kLimits;
const tp::Device kDevice;

int up(int v) {
  return (v + 7) / 8 * 8;
}

struct Problem {
  ek::BttSizes sizes;  // the layer's
  int experts = 1;
  int active = 0;  // 0: no mixture
  int tokens = 1;

  ek::BttSizes padded() const {
    return {
        sizes.alpha, up(sizes.gamma), sizes.epsilon, up(sizes.phi), sizes.rho};
  }
  int rows() const { return active == 0 ? tokens : tokens * active; }
  std::string name() const {
    char text[128];
    std::snprintf(
        text,
        sizeof text,
        "%d,%d|%d,%d|%d E%d k%d x %d",
        sizes.alpha,
        sizes.gamma,
        sizes.epsilon,
        sizes.phi,
        sizes.rho,
        experts,
        active,
        tokens);
    return text;
  }
};

// Rows of each expert, in order.
struct Routing {
  std::vector<int32_t> offsets{0};
  std::vector<int32_t> order;
  std::vector<float> gates;  // of the pair
  int bins = 1;

  Routing(const Problem& p, std::mt19937& random, bool uneven, int bins_)
      : bins(bins_) {
    std::vector<std::vector<int32_t>> of(p.experts * bins);
    std::uniform_real_distribution<float> gate(0.0F, 1.0F);
    std::vector<int> experts(p.experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int t = 0; t < p.tokens; ++t) {
      for (int j = 0; j < p.active; ++j) {
        const int end = uneven ? std::max(p.active, p.experts / 3) : p.experts;
        std::uniform_int_distribution<int> pick(j, end - 1);
        std::swap(experts[j], experts[pick(random)]);
        of[experts[j] * bins + (bins > 1 ? j : 0)].push_back(t * p.active + j);
        gates.push_back(gate(random));
      }
    }
    for (const auto& rows : of) {
      order.insert(order.end(), rows.begin(), rows.end());
      offsets.push_back(static_cast<int32_t>(order.size()));
    }
  }
};

// (count, outer, inner) with zeros to (count, outer, padded).
std::vector<Bf16> pad_inner(const std::vector<Bf16>& v, int inner, int padded) {
  std::vector<Bf16> out(v.size() / inner * padded, __float2bfloat16(0));
  for (size_t i = 0; i < v.size() / inner; ++i) {
    std::copy_n(v.begin() + i * inner, inner, out.begin() + i * padded);
  }
  return out;
}

int failures = 0;

void compare(
    const char* what,
    const Problem& p,
    const std::vector<double>& expected,
    const std::vector<Bf16>& found) {
  double error = 0;
  double norm = 0;
  bool finite = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double v = __bfloat162float(found[i]);
    finite = finite && std::isfinite(v);
    error += (v - expected[i]) * (v - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-30));
  const bool ok = finite && relative < 6e-3;
  if (!ok) {
    ++failures;
    std::printf(
        "FAIL %s %s: %.2e%s\n",
        p.name().c_str(),
        what,
        relative,
        finite ? "" : ", not finite");
  }
}

struct Core {
  ek::BttSizes s;
  // A: (E, gamma, alpha, phi, rho); B: (E, phi, rho, gamma, epsilon).
  ek::BttCores of(const Bf16* a, const Bf16* b, int experts) const {
    ek::BttCores c;
    c.a = a;
    c.b = b;
    c.a_strides = {
        .in = static_cast<int64_t>(s.phi) * s.rho,
        .gamma = static_cast<int64_t>(s.alpha) * s.phi * s.rho,
        .phi = s.rho,
        .rho = 1};
    c.b_strides = {
        .in = 1,
        .gamma = s.epsilon,
        .phi = static_cast<int64_t>(s.rho) * s.gamma * s.epsilon,
        .rho = static_cast<int64_t>(s.gamma) * s.epsilon};
    c.experts = experts;
    c.a_expert = static_cast<int64_t>(s.gamma) * s.alpha * s.phi * s.rho;
    c.b_expert = static_cast<int64_t>(s.phi) * s.rho * s.gamma * s.epsilon;
    return c;
  }
};

ek::RoutedRows list_of(
    const Problem& p,
    const Buffer<int32_t>& offsets,
    const Buffer<int32_t>& order,
    int bins) {
  ek::RoutedRows rows;
  rows.pairs = p.rows();
  if (p.active > 0) {
    rows.offsets = offsets.data;
    rows.order = order.data;
    rows.experts = p.experts;
    rows.active = p.active;
    rows.bins = bins;
    rows.last = bins;
  }
  return rows;
}

// One random problem: forward rows, mixture, backward rows, both gradients.
void check(const Problem& p, std::mt19937& random) {
  const ek::BttSizes& s = p.sizes;
  const ek::BttSizes q = p.padded();
  const bool mixture = p.active > 0;
  const int bins = mixture && p.active <= 2 ? p.active : 1;
  const Routing routing(p, random, random() % 3 == 0, bins);
  const int rows = p.rows();
  const auto x =
      random_values(static_cast<size_t>(p.tokens) * s.d_in(), random, 1);
  const auto dy =
      random_values(static_cast<size_t>(p.tokens) * s.d_out(), random, 1);
  const auto a = random_values(
      static_cast<size_t>(p.experts) * s.gamma * s.alpha * s.phi * s.rho,
      random,
      1.0F / std::sqrt(static_cast<float>(s.alpha)));
  const auto b = random_values(
      static_cast<size_t>(p.experts) * s.phi * s.rho * s.gamma * s.epsilon,
      random,
      1.0F / std::sqrt(static_cast<float>(s.gamma * s.rho)));
  // Reference.
  const auto pair_expert = [&] {
    std::vector<int> of(rows, 0);
    for (int e = 0; mixture && e < p.experts; ++e) {
      for (int i = routing.offsets[e * bins];
           i < routing.offsets[(e + 1) * bins];
           ++i) {
        of[routing.order[i]] = e;
      }
    }
    return of;
  }();
  const Core core{s};
  const auto strides = core.of(nullptr, nullptr, 1);
  const auto at_a = [&](int e, int al, int g, int f, int r) {
    return e * strides.a_expert + al * strides.a_strides.in +
           g * strides.a_strides.gamma + f * strides.a_strides.phi + r;
  };
  const auto at_b = [&](int e, int ep, int g, int f, int r) {
    return e * strides.b_expert + ep + g * strides.b_strides.gamma +
           f * strides.b_strides.phi + r * strides.b_strides.rho;
  };
  std::vector<double> ad(a.size());
  std::vector<double> bd(b.size());
  std::transform(a.begin(), a.end(), ad.begin(), [](Bf16 v) {
    return __bfloat162float(v);
  });
  std::transform(b.begin(), b.end(), bd.begin(), [](Bf16 v) {
    return __bfloat162float(v);
  });
  std::vector<double> y(static_cast<size_t>(rows) * s.d_out());
  std::vector<double> y_sum(static_cast<size_t>(p.tokens) * s.d_out());
  std::vector<double> dx(static_cast<size_t>(rows) * s.d_in());
  std::vector<double> da(a.size());
  std::vector<double> db(b.size());
  const int zs = s.gamma * s.phi * s.rho;
  std::vector<double> z(zs);
  std::vector<double> dz(zs);
  for (int pair = 0; pair < rows; ++pair) {
    const int t = mixture ? pair / p.active : pair;
    const int e = pair_expert[pair];
    const double gate = mixture ? routing.gates[pair] : 1.0;
    const Bf16* xt = x.data() + static_cast<size_t>(t) * s.d_in();
    const Bf16* dyt = dy.data() + static_cast<size_t>(t) * s.d_out();
    std::fill(z.begin(), z.end(), 0.0);
    std::fill(dz.begin(), dz.end(), 0.0);
    for (int g = 0; g < s.gamma; ++g) {
      for (int al = 0; al < s.alpha; ++al) {
        const double v = __bfloat162float(xt[al * s.gamma + g]);
        const double* w = &ad[at_a(e, al, g, 0, 0)];
        for (int i = 0; i < s.phi * s.rho; ++i) {
          z[g * s.phi * s.rho + i] += v * w[i];
        }
      }
    }
    for (int f = 0; f < s.phi; ++f) {
      for (int r = 0; r < s.rho; ++r) {
        for (int g = 0; g < s.gamma; ++g) {
          const double* w = &bd[at_b(e, 0, g, f, r)];
          double* dw = &db[at_b(e, 0, g, f, r)];
          const double zv = z[(g * s.phi + f) * s.rho + r];
          double sum = 0;
          for (int ep = 0; ep < s.epsilon; ++ep) {
            const double d = __bfloat162float(dyt[ep * s.phi + f]);
            y[static_cast<size_t>(pair) * s.d_out() + ep * s.phi + f] +=
                zv * w[ep];
            sum += d * w[ep];
            dw[ep] += gate * zv * d;
          }
          dz[(g * s.phi + f) * s.rho + r] = sum;
        }
      }
    }
    for (int g = 0; g < s.gamma; ++g) {
      for (int al = 0; al < s.alpha; ++al) {
        const double v = __bfloat162float(xt[al * s.gamma + g]);
        const double* w = &ad[at_a(e, al, g, 0, 0)];
        double* dw = &da[at_a(e, al, g, 0, 0)];
        double sum = 0;
        for (int i = 0; i < s.phi * s.rho; ++i) {
          sum += dz[g * s.phi * s.rho + i] * w[i];
          dw[i] += gate * v * dz[g * s.phi * s.rho + i];
        }
        dx[static_cast<size_t>(pair) * s.d_in() + al * s.gamma + g] = sum;
      }
    }
    for (int i = 0; i < s.d_out(); ++i) {
      y_sum[static_cast<size_t>(t) * s.d_out() + i] +=
          gate * y[static_cast<size_t>(pair) * s.d_out() + i];
    }
  }
  // On the device.
  const Buffer<Bf16> x_d(pad_inner(x, s.gamma, q.gamma));
  const Buffer<Bf16> dy_d(pad_inner(dy, s.phi, q.phi));
  const Buffer<Bf16> a_d(a);
  const Buffer<Bf16> b_d(b);
  const Buffer<int32_t> offsets(routing.offsets);
  const Buffer<int32_t> order(routing.order);
  const Buffer<float> gates(routing.gates);
  const auto pick = [&](const tp::StageProblem& problem) {
    const auto all = tp::propose(problem, kDevice, 12);
    if (all.empty()) {
      std::printf("FAIL %s: no plan\n", p.name().c_str());
      std::exit(1);
    }
    return all[random() % all.size()];
  };
  const ek::BttSizes s_t = s.transposed();
  const ek::BttSizes q_t = q.transposed();
  const tp::StageShape one = pick(tp::first_stage(q, rows, p.experts));
  const tp::StageShape two = pick(tp::second_stage(q, q.phi, rows, p.experts));
  const tp::StageShape one_t = pick(tp::first_stage(q_t, rows, p.experts));
  const tp::StageShape two_t =
      pick(tp::second_stage(q_t, q_t.phi, rows, p.experts));
  const tp::GradShape grad_a = tp::propose(
      tp::GradProblem{q.gamma, s.alpha, s.rho, q.phi},
      kDevice,
      9)[random() % 9];
  const tp::GradShape grad_b = tp::propose(
      tp::GradProblem{q.phi, s.epsilon, s.rho, q.gamma},
      kDevice,
      9)[random() % 9];
  const auto kernels = loaded(
      {tp::source_of(one),
       tp::source_of(two),
       tp::source_of(one_t),
       tp::source_of(two_t),
       tp::source_of(grad_a),
       tp::source_of(grad_b)});
  const auto cores = core.of(a_d.data, b_d.data, p.experts);
  ek::BttCores cores_t;  // as BttCores::transposed()
  cores_t.a = cores.b;
  cores_t.b = cores.a;
  cores_t.a_strides = cores.b_strides.exchanged();
  cores_t.b_strides = cores.a_strides.exchanged();
  cores_t.experts = p.experts;
  cores_t.a_expert = cores.b_expert;
  cores_t.b_expert = cores.a_expert;
  const auto packed = [&](const tp::StageShape& shape,
                          const ek::BttSizes& sizes,
                          const ek::BttCores& c) {
    auto buffer =
        std::make_unique<Buffer<char>>(tp::packed_bytes(shape, p.experts));
    const tp::PackedCore target{shape, buffer->data};
    CHECK(tp::pack({&target, 1}, sizes, c, nullptr));
    return buffer;
  };
  const auto w_one = packed(one, s, cores);
  const auto w_two = packed(two, s, cores);
  const auto w_one_t = packed(one_t, s_t, cores_t);
  const auto w_two_t = packed(two_t, s_t, cores_t);
  const ek::RoutedRows list = list_of(p, offsets, order, bins);
  const size_t z_size = static_cast<size_t>(rows) * q.gamma * q.phi * s.rho;
  Buffer<Bf16> z_d(z_size);
  Buffer<Bf16> dz_d(z_size);
  const auto stage = [&](int kernel,
                         const tp::StageShape& shape,
                         const void* in,
                         void* out,
                         const Buffer<char>& weights,
                         const float* gate,
                         int divisor,
                         const ek::RoutedRows& rows_list,
                         int accumulate) {
    const int out_rows = divisor == 1 ? rows : p.tokens;
    CHECK(tp::launch(
        kernels[kernel],
        shape,
        tp::StageLaunch{
            in,
            out,
            p.tokens,
            out_rows,
            weights.data,
            gate,
            nullptr,
            rows_list,
            divisor,
            accumulate != 0},
        kLimits,
        nullptr));
  };
  const int active = std::max(p.active, 1);
  const float* gate = mixture ? gates.data : nullptr;
  const auto unpadded = [&](const std::vector<Bf16>& v, int inner, int padded) {
    std::vector<Bf16> out;
    for (size_t i = 0; i < v.size() / padded; ++i) {
      out.insert(
          out.end(), v.begin() + i * padded, v.begin() + i * padded + inner);
    }
    return out;
  };
  {
    Buffer<Bf16> y_d(static_cast<size_t>(rows) * s.epsilon * q.phi);
    stage(0, one, x_d.data, z_d.data, *w_one, nullptr, active, list, 0);
    stage(1, two, z_d.data, y_d.data, *w_two, nullptr, 1, list, 0);
    compare("rows", p, y, unpadded(y_d.host(), s.phi, q.phi));
  }
  if (bins == p.active || !mixture) {
    Buffer<Bf16> y_d(static_cast<size_t>(p.tokens) * s.epsilon * q.phi);
    std::vector<Bf16> before;
    for (int repeat = 0; repeat < 2; ++repeat) {
      z_d.poison();
      y_d.poison();
      stage(0, one, x_d.data, z_d.data, *w_one, gate, active, list, 0);
      for (int slot = 0; slot < std::max(bins, 1); ++slot) {
        ek::RoutedRows part = list;
        part.first = slot;
        part.last = slot + 1;
        stage(1, two, z_d.data, y_d.data, *w_two, nullptr, active, part, slot);
      }
      const auto now = y_d.host();
      if (repeat == 1 &&
          std::memcmp(now.data(), before.data(), 2 * now.size()) != 0) {
        ++failures;
        std::printf("FAIL %s: not repeated\n", p.name().c_str());
      }
      before = now;
    }
    compare("mixture", p, y_sum, unpadded(before, s.phi, q.phi));
  }
  {
    Buffer<Bf16> dx_d(static_cast<size_t>(rows) * s.alpha * q.gamma);
    stage(2, one_t, dy_d.data, dz_d.data, *w_one_t, nullptr, active, list, 0);
    stage(3, two_t, dz_d.data, dx_d.data, *w_two_t, nullptr, 1, list, 0);
    compare("dx", p, dx, unpadded(dx_d.host(), s.gamma, q.gamma));
  }
  z_d.poison();
  stage(0, one, x_d.data, z_d.data, *w_one, gate, active, list, 0);
  const auto grad = [&](const char* what,
                        int kernel,
                        const tp::GradShape& shape,
                        const void* pp,
                        const void* qq,
                        const float* gate_q,
                        const ek::BttCores::Strides& to,
                        int64_t expert_stride,
                        const std::vector<double>& expected) {
    const int splits = tp::splits_of(shape, rows, kDevice);
    const size_t core_size = static_cast<size_t>(shape.batch) * shape.rows *
                             shape.rho * shape.columns;
    const Buffer<float> partials((splits + p.experts - 1) * core_size);
    // Gradients of the padded layer, in the padded core's own order.
    Buffer<Bf16> out(p.experts * core_size);
    CHECK(tp::launch(
        kernels[kernel],
        shape,
        tp::GradLaunch{pp, p.tokens, qq, gate_q, partials.data, list, splits},
        nullptr));
    ek::BttPartials sums;
    sums.splits = splits;
    ek::BttWeightGradSizes sizes;
    sizes.batch = shape.batch;
    sizes.rows = shape.rows;
    sizes.rho = shape.rho;
    sizes.columns = shape.columns;
    sums.cores[0] = {sizes, partials.data, out.data, to, expert_stride};
    if (mixture) {
      sums.rows = list;
    }
    CHECK(ek::btt_sum_partials(sums, kLimits, nullptr));
    const std::vector<Bf16> all = out.host();
    std::vector<Bf16> own(expected.size());
    const bool first = kernel == 4;
    for (int e = 0; e < p.experts; ++e) {
      for (int g = 0; g < s.gamma; ++g) {
        for (int f = 0; f < s.phi; ++f) {
          for (int r = 0; r < s.rho; ++r) {
            for (int i = 0; i < (first ? s.alpha : s.epsilon); ++i) {
              const auto from = first ? e * expert_stride + g * to.gamma +
                                            i * to.in + f * to.phi + r * to.rho
                                      : e * expert_stride + f * to.gamma +
                                            i * to.in + g * to.phi + r * to.rho;
              own[first ? at_a(e, i, g, f, r) : at_b(e, i, g, f, r)] =
                  all[from];
            }
          }
        }
      }
    }
    compare(what, p, expected, own);
  };
  const auto padded_strides = Core{q}.of(nullptr, nullptr, p.experts);
  grad(
      "dA",
      4,
      grad_a,
      x_d.data,
      dz_d.data,
      gate,
      padded_strides.a_strides,
      padded_strides.a_expert,
      da);
  grad(
      "dB",
      5,
      grad_b,
      dy_d.data,
      z_d.data,
      nullptr,
      padded_strides.b_strides.exchanged(),
      padded_strides.b_expert,
      db);
  CHECK(cudaDeviceSynchronize());
}

int random_size(std::mt19937& random, int most) {
  static constexpr int kSizes[] = {8, 16, 24, 32, 40, 48, 56, 64, 72, 80};
  const int kind = static_cast<int>(random() % 4);
  int size = kSizes[random() % 10];
  if (kind == 0) {
    size = 1 + static_cast<int>(random() % most);
  }
  return std::min(size, most);
}

void check_random(unsigned seed, int count, int most, int tokens) {
  for (int i = 0; i < count; ++i) {
    std::mt19937 random(seed + i);
    Problem p;
    p.sizes = {
        random_size(random, most),
        random_size(random, most),
        random_size(random, most),
        random_size(random, most),
        random() % 3 == 0 ? 1 + static_cast<int>(random() % 4) : 1};
    p.tokens = 1 + static_cast<int>(random() % tokens);
    if (random() % 3 != 0) {
      p.experts = 1 + static_cast<int>(random() % 9);
      p.active = 1 + static_cast<int>(random() % std::min(p.experts, 4));
    }
    check(p, random);
  }
  std::printf("%d problems, %d checks failed\n", count, failures);
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

void time_problem(const Problem& p, int candidates, Flush& flush) {
  std::mt19937 random(1);
  const int rows = p.rows();
  const int bins = p.active == 2 ? 2 : 1;
  const Routing routing(p, random, false, bins);
  const Buffer<int32_t> offsets(routing.offsets);
  const Buffer<int32_t> order(routing.order);
  const Buffer<float> gates(routing.gates);
  const ek::BttSizes q = p.padded();
  const size_t most = static_cast<size_t>(rows) *
                      std::max({q.d_in(), q.d_out(), q.gamma * q.phi * q.rho});
  Buffer<uint16_t> in(most);
  Buffer<uint16_t> other(most);
  Buffer<uint16_t> out(most);
  fill<<<1024, 256>>>(in.data, most);
  fill<<<1024, 256>>>(other.data, most);
  const ek::RoutedRows list = list_of(p, offsets, order, bins);
  const int active = std::max(p.active, 1);
  std::printf("%s\n", p.name().c_str());
  struct Entry {
    const char* name;
    tp::StageProblem problem;
  };
  const Entry entries[] = {
      {"one", tp::first_stage(q, rows, p.experts)},
      {"two", tp::second_stage(q, q.phi, rows, p.experts)},
      {"one'", tp::first_stage(q.transposed(), rows, p.experts)},
      {"two'", tp::second_stage(q.transposed(), q.gamma, rows, p.experts)}};
  for (const Entry& entry : entries) {
    std::vector<tp::StageShape> shapes;  // that differ in more than buffers
    for (const auto& s : tp::propose(entry.problem, kDevice, 1000)) {
      const bool known = std::any_of(
          shapes.begin(), shapes.end(), [&](const tp::StageShape& o) {
            return s.vectors == o.vectors && s.tiles == o.tiles &&
                   s.tokens == o.tokens && s.warps == o.warps;
          });
      if (!known && shapes.size() < static_cast<size_t>(candidates)) {
        shapes.push_back(s);
      }
    }
    std::vector<std::string> sources;
    for (const auto& shape : shapes) {
      sources.push_back(tp::source_of(shape));
    }
    const auto kernels = loaded(sources);
    const double bytes =
        2.0 * rows * entry.problem.batch *
        (entry.problem.depth * entry.problem.rho + entry.problem.columns);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const tp::StageShape& s = shapes[i];
      Buffer<uint16_t> weights(tp::packed_bytes(s, p.experts) / 2);
      fill<<<1024, 256>>>(weights.data, weights.size);
      const double ms = time_ms(flush, [&] {
        CHECK(tp::launch(
            kernels[i],
            s,
            tp::StageLaunch{
                in.data,
                out.data,
                p.tokens,
                rows,
                weights.data,
                nullptr,
                nullptr,
                list,
                s.in_slabs ? 1 : active,
                false},
            kLimits,
            nullptr));
      });
      std::printf(
          "  %-5s v%d t%d m%d %dx%d w%d b%d  %3d KB  predicted %.4f  ms %.4f  "
          "%.0f GB/s\n",
          entry.name,
          s.vectors,
          s.tiles,
          s.tokens,
          s.column_tiles,
          s.token_tiles,
          s.warps,
          s.buffers,
          s.shared_bytes() / 1024,
          tp::cost(s, entry.problem, kDevice) / 1.75e6,
          ms,
          bytes * 1e-6 / ms);
    }
  }
  std::vector<tp::GradShape> grads = tp::propose(
      tp::GradProblem{q.gamma, q.alpha, q.rho, q.phi},
      kDevice,
      candidates == 1 ? 1 : 3);
  for (const auto& s : tp::propose(
           tp::GradProblem{q.phi, q.epsilon, q.rho, q.gamma},
           kDevice,
           candidates == 1 ? 1 : 3)) {
    grads.push_back(s);
  }
  for (const tp::GradShape& s : grads) {
    const auto kernels = loaded({tp::source_of(s)});
    const int splits = tp::splits_of(s, rows, kDevice);
    Buffer<float> partials(
        static_cast<size_t>(splits + p.experts - 1) * s.batch * s.rows * s.rho *
        s.columns);
    const double ms = time_ms(flush, [&] {
      CHECK(tp::launch(
          kernels[0],
          s,
          tp::GradLaunch{
              in.data,
              p.tokens,
              other.data,
              p.active > 0 ? gates.data : nullptr,
              partials.data,
              list,
              splits},
          nullptr));
    });
    const double bytes = 2.0 * rows * s.batch * (s.rows + s.rho * s.columns);
    std::printf(
        "  grad  g%d r%d c%d b%d blocks %d splits %d  %3d KB  ms %.4f  %.0f "
        "GB/s\n",
        s.groups,
        s.row_tiles,
        s.column_tiles,
        s.buffers,
        s.blocks(),
        splits,
        s.shared_bytes() / 1024,
        ms,
        bytes * 1e-6 / ms);
  }
  CHECK(cudaDeviceSynchronize());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "check") {
    check_random(
        argc > 2 ? std::atoi(argv[2]) : 1,
        argc > 3 ? std::atoi(argv[3]) : 20,
        96,
        150);
    return failures == 0 ? 0 : 1;
  }
  if (mode == "sanitize") {
    check_random(7, argc > 2 ? std::atoi(argv[2]) : 3, 24, 40);
    return failures == 0 ? 0 : 1;
  }
  Flush flush;
  const int candidates = argc > 2 ? std::atoi(argv[2]) : 4;
  const std::string only = argc > 3 ? argv[3] : "";  // such as "04"
  const Problem all[] = {
      {{32, 64, 64, 32, 1}, 16, 2, 16384},    // 2048
      {{40, 32, 80, 64, 1}, 16, 2, 16384},    // 1280 to 5120
      {{80, 64, 40, 32, 1}, 16, 2, 16384},    // 5120 to 1280
      {{64, 32, 128, 64, 1}, 16, 2, 16384},   // 2048 to 8192
      {{64, 64, 64, 64, 1}, 16, 2, 16384},    // 4096
      {{64, 64, 128, 112, 1}, 16, 2, 16384},  // 4096 to 14336
      {{64, 128, 128, 64, 1}, 16, 2, 16384},  // 8192
      {{40, 40, 40, 40, 1}, 1, 0, 16384},     // 1600
      {{64, 64, 64, 64, 8}, 1, 0, 16384}};    // 4096, rank 8
  for (int i = 0; i < static_cast<int>(std::size(all)); ++i) {
    if (only.empty() ||
        only.find(static_cast<char>('0' + i)) != std::string::npos) {
      time_problem(all[i], candidates, flush);
    }
  }
  return 0;
}
