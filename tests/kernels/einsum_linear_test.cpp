#include "einforge/kernels/cpu/einsum_linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "einforge/base/random.h"

namespace einforge::kernels::cpu {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Operands {
  Floats x, first, second, bias, grad;
};

struct Results {
  Floats y, x, first, second, bias, scale;
};

// In double precision; with `absolute`, of the operands' absolute values,
// which bounds what rounding can do.
struct Expected {
  Doubles y, x, first, second, bias;
};

Floats random_floats(base::Random& random, std::int64_t size) {
  Floats values(static_cast<size_t>(size));
  for (float& value : values) {
    value = static_cast<float>(random.normal());
  }
  return values;
}

Operands random_operands(base::Random& random, const EinsumShape& s) {
  return {
      random_floats(random, s.tokens * s.d_in()),
      random_floats(random, s.first_size()),
      random_floats(random, s.second_size()),
      random_floats(random, s.d_out()),
      random_floats(random, s.tokens * s.d_out())};
}

// The sums of einsum_linear.h and their derivatives as loops.
Expected loops(const EinsumShape& s, const Operands& o, bool absolute) {
  const auto value = [&](const Floats& from, std::int64_t index) {
    const double v = from[static_cast<size_t>(index)];
    return absolute ? std::abs(v) : v;
  };
  const auto zeros = [](const Floats& like) { return Doubles(like.size()); };
  Expected e{
      zeros(o.grad),
      zeros(o.x),
      zeros(o.first),
      zeros(o.second),
      zeros(o.bias)};
  const auto at = [](Doubles& d, std::int64_t i) -> double& {
    return d[static_cast<size_t>(i)];
  };
  // One term of the sums: x and y by their memory order.
  const auto term = [&](std::int64_t t,
                        std::int64_t u,
                        std::int64_t f,
                        std::int64_t q,
                        std::int64_t g,
                        std::int64_t r) {
    const auto x_index = [&](std::int64_t i) {
      return t * s.d_in() + (s.ab ? (i * s.second_in + q) * s.gamma + g
                                  : (q * s.first_in + i) * s.gamma + g);
    };
    const auto y_index = [&](std::int64_t v) {
      return t * s.d_out() + (s.ab ? (u * s.second_out + v) * s.phi + f
                                   : (v * s.first_out + u) * s.phi + f);
    };
    const auto first_index = [&](std::int64_t i) {
      return (((g * s.first_in + i) * s.first_out + u) * s.phi + f) * s.rho + r;
    };
    const auto second_index = [&](std::int64_t v) {
      return (((f * s.second_in + q) * s.gamma + g) * s.rho + r) *
                 s.second_out +
             v;
    };
    double z = 0;
    double dz = 0;
    for (std::int64_t i = 0; i < s.first_in; ++i) {
      z += value(o.x, x_index(i)) * value(o.first, first_index(i));
    }
    for (std::int64_t v = 0; v < s.second_out; ++v) {
      const double grad = value(o.grad, y_index(v));
      at(e.y, y_index(v)) += z * value(o.second, second_index(v));
      at(e.second, second_index(v)) += z * grad;
      dz += grad * value(o.second, second_index(v));
    }
    for (std::int64_t i = 0; i < s.first_in; ++i) {
      at(e.x, x_index(i)) += dz * value(o.first, first_index(i));
      at(e.first, first_index(i)) += dz * value(o.x, x_index(i));
    }
  };
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    for (std::int64_t c = 0; c < s.d_out(); ++c) {
      at(e.y, t * s.d_out() + c) += value(o.bias, c);
      at(e.bias, c) += value(o.grad, t * s.d_out() + c);
    }
    for (std::int64_t u = 0; u < s.first_out; ++u) {
      for (std::int64_t f = 0; f < s.phi; ++f) {
        for (std::int64_t q = 0; q < s.second_in; ++q) {
          for (std::int64_t g = 0; g < s.gamma; ++g) {
            for (std::int64_t r = 0; r < s.rho; ++r) {
              term(t, u, f, q, g, r);
            }
          }
        }
      }
    }
  }
  return e;
}

struct AlignedFloats {
  explicit AlignedFloats(std::int64_t size)
      : data(static_cast<float*>(std::aligned_alloc(
            64, (static_cast<size_t>(size) * 4 + 63) / 64 * 64))) {
    // Nothing may be read before it is written.
    std::fill(data, data + size, kNan);
  }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  ~AlignedFloats() { std::free(data); }
  float* data;
};

Results run(
    const EinsumShape& s,
    const Operands& o,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes,
    const EinsumRows& rows = {},
    const Floats& y = {},
    const Floats& grad_x = {}) {
  const auto poisoned = [](const Floats& like) {
    return Floats(like.size(), kNan);
  };
  Results r{
      y.empty() ? poisoned(o.grad) : y,
      grad_x.empty() ? poisoned(o.x) : grad_x,
      poisoned(o.first),
      poisoned(o.second),
      poisoned(o.bias),
      Floats(static_cast<size_t>(s.tokens), kNan)};
  {
    const EinsumTiling tiling =
        plan_einsum_linear(s, EinsumPass::kForward, isa, workers, l2_bytes);
    EXPECT_LE(tiling.workers, workers);
    const AlignedFloats space(tiling.workers * tiling.workspace);
    const EinsumForward args{
        s,
        tiling,
        rows,
        o.x.data(),
        o.first.data(),
        o.second.data(),
        o.bias.data(),
        r.y.data()};
    for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
      einsum_linear_forward(
          args, isa, worker, space.data + worker * tiling.workspace);
    }
  }
  const EinsumTiling tiling =
      plan_einsum_linear(s, EinsumPass::kBackward, isa, workers, l2_bytes);
  const AlignedFloats space(tiling.workers * tiling.workspace);
  const EinsumBackward args{
      s,
      tiling,
      rows,
      o.grad.data(),
      o.x.data(),
      o.first.data(),
      o.second.data(),
      r.x.data(),
      r.first.data(),
      r.second.data(),
      r.bias.data(),
      r.scale.data()};
  for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
    einsum_linear_backward(
        args, isa, worker, space.data + worker * tiling.workspace);
  }
  for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
    einsum_linear_reduce(args, isa, worker, space.data);
  }
  return r;
}

void expect_close(
    const std::string& what,
    const Floats& actual,
    const Doubles& expected,
    const Doubles& magnitude,
    double terms) {
  const double factor = 0x1p-24 * (4 + 2 * std::sqrt(terms));
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]);
    const double share = error / (factor * magnitude[i] + 1e-30);
    if (!(share <= worst)) {
      worst = share;
      where = i;
    }
  }
  EXPECT_LE(worst, 1) << what << "[" << where << "]: got " << actual[where]
                      << ", expected " << expected[where];
}

std::string describe(const EinsumShape& s) {
  return fmt::format(
      "tokens {}, i {}, s {}, g {}, u {}, v {}, f {}, r {}, {}",
      s.tokens,
      s.first_in,
      s.second_in,
      s.gamma,
      s.first_out,
      s.second_out,
      s.phi,
      s.rho,
      s.ab ? "AB" : "BA");
}

void check(
    const EinsumShape& s,
    base::Random& random,
    Isa isa,
    std::int64_t workers,
    std::int64_t l2_bytes) {
  const Operands operands = random_operands(random, s);
  const Results actual = run(s, operands, isa, workers, l2_bytes);
  const Expected expected = loops(s, operands, false);
  const Expected bound = loops(s, operands, true);
  const std::string name = fmt::format("{}, {}: ", isa_name(isa), describe(s));
  const auto terms = [](std::int64_t count) {
    return static_cast<double>(count);
  };
  expect_close(
      name + "y", actual.y, expected.y, bound.y, terms(s.d_in() * s.rho));
  expect_close(
      name + "grad_x", actual.x, expected.x, bound.x, terms(s.d_out() * s.rho));
  expect_close(
      name + "grad_first",
      actual.first,
      expected.first,
      bound.first,
      terms(s.tokens * s.d_out()));
  expect_close(
      name + "grad_second",
      actual.second,
      expected.second,
      bound.second,
      terms(s.tokens * s.d_in()));
  expect_close(
      name + "grad_bias",
      actual.bias,
      expected.bias,
      bound.bias,
      terms(s.tokens));
}

constexpr std::int64_t kL2 = std::int64_t{1} << 21;

class EinsumLinear : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > best_isa()) {
      GTEST_SKIP() << "no " << isa_name(GetParam()) << " on this machine";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(
    Isas,
    EinsumLinear,
    ::testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
    [](const auto& tested) { return std::string(isa_name(tested.param)); });

TEST_P(EinsumLinear, AgreesWithLoopsAtRandomSizes) {
  base::Random random(1);
  const auto pick = [&](std::vector<std::int64_t> from) {
    return from[random.below(from.size())];
  };
  for (int point = 0; point < 120 && !HasFailure(); ++point) {
    // Half of them of the BTT family.
    const bool btt = random.below(2) == 0;
    const EinsumShape s{
        .tokens = pick({1, 2, 15, 16, 17, 63, 64, 65, 130}),
        .first_in = pick({1, 2, 3, 8, 17, 32}),
        .second_in = btt ? 1 : pick({1, 2, 5}),
        .gamma = pick({1, 2, 5, 16}),
        .first_out = btt ? 1 : pick({1, 2, 6}),
        .second_out = pick({1, 4, 9, 33}),
        .phi = pick({1, 3, 16, 24}),
        .rho = pick({1, 2, 4}),
        .ab = random.below(2) == 0};
    if (s.first_size() * s.second_in + s.second_size() * s.first_out >
        200'000) {
      continue;  // the loops would take too long
    }
    // A small cache makes groups of phi and short tiles.
    check(s, random, GetParam(), pick({1, 2, 3}), pick({kL2, 1 << 14}));
  }
}

// Tokens in any rows of larger operands, each times its scale, written or added
// to what is there; no other row changes.
TEST_P(EinsumLinear, TakesSomeTokens) {
  base::Random random(3);
  for (const std::int64_t tokens : {1, 15, 16, 33, 70, 200}) {
    const EinsumShape s{
        .tokens = tokens,
        .first_in = 5,
        .second_in = tokens % 2 == 0 ? 1 : 2,
        .gamma = 4,
        .second_out = 6,
        .phi = 3,
        .rho = 2,
        .ab = tokens % 2 == 0};
    EinsumShape large = s;
    large.tokens = 3 * tokens;
    Operands o = random_operands(random, large);
    std::fill(o.bias.begin(), o.bias.end(), 0.0F);
    std::vector<std::int32_t> numbers;
    std::vector<std::uint8_t> adds;
    for (std::int64_t t = 0; t < tokens; ++t) {
      numbers.push_back(static_cast<std::int32_t>(large.tokens - 1 - 2 * t));
      adds.push_back(static_cast<std::uint8_t>(random.below(2)));
    }
    Floats scale = random_floats(random, tokens);
    scale[0] = 0;
    const Floats y = random_floats(random, large.tokens * s.d_out());
    const Floats grad_x = random_floats(random, large.tokens * s.d_in());
    const EinsumRows rows{numbers.data(), scale.data(), adds.data()};
    const Results actual = run(s, o, GetParam(), 3, kL2, rows, y, grad_x);
    const Results again = run(s, o, GetParam(), 1, kL2, rows, y, grad_x);
    EXPECT_EQ(actual.y, again.y);
    EXPECT_EQ(actual.x, again.x);
    EXPECT_EQ(actual.scale, again.scale);

    Operands gathered = o;
    const auto gather = [&](const Floats& from, std::int64_t size) {
      Floats part;
      for (const std::int32_t row : numbers) {
        part.insert(
            part.end(),
            from.begin() + row * size,
            from.begin() + (row + 1) * size);
      }
      return part;
    };
    gathered.x = gather(o.x, s.d_in());
    gathered.grad = gather(o.grad, s.d_out());
    const Expected plain = loops(s, gathered, false);
    const Expected plain_bound = loops(s, gathered, true);
    // Rows of `large`: those of the tokens scaled and added, the others as they
    // were.
    const auto expect_rows = [&](const std::string& what,
                                 const Floats& rows_now,
                                 const Floats& before,
                                 const Doubles& part,
                                 const Doubles& part_bound,
                                 std::int64_t size) {
      Doubles expected(before.begin(), before.end());
      Doubles bound(before.size(), 0.0);
      for (std::int64_t i = 0; i < tokens * size; ++i) {
        const auto t = static_cast<size_t>(i / size);
        const auto at = static_cast<size_t>(numbers[t] * size + i % size);
        const auto from = static_cast<size_t>(i);
        const double base = adds[t] != 0 ? expected[at] : 0;
        expected[at] = base + scale[t] * part[from];
        bound[at] = std::abs(base) + std::abs(scale[t]) * part_bound[from];
      }
      expect_close(what, rows_now, expected, bound, 100);
    };
    expect_rows("y", actual.y, y, plain.y, plain_bound.y, s.d_out());
    expect_rows("x", actual.x, grad_x, plain.x, plain_bound.x, s.d_in());

    Doubles scale_gradient(scale.size(), 0.0);
    Doubles scale_bound(scale.size(), 0.0);
    for (size_t i = 0; i < gathered.x.size(); ++i) {
      const size_t t = i / static_cast<size_t>(s.d_in());
      scale_gradient[t] += gathered.x[i] * plain.x[i];
      scale_bound[t] += std::abs(gathered.x[i]) * plain_bound.x[i];
    }
    expect_close("scale", actual.scale, scale_gradient, scale_bound, 100);

    // The cores' gradients are those of scaled gradients of y.
    Operands scaled = gathered;
    for (size_t i = 0; i < scaled.grad.size(); ++i) {
      scaled.grad[i] *= scale[i / static_cast<size_t>(s.d_out())];
    }
    const Expected cores = loops(s, scaled, false);
    const Expected bound = loops(s, scaled, true);
    expect_close("first", actual.first, cores.first, bound.first, 1000);
    expect_close("second", actual.second, cores.second, bound.second, 1000);
    expect_close("bias", actual.bias, plain.bias, plain_bound.bias, 200);
  }
}

TEST_P(EinsumLinear, LeavesOutWhatIsNotAskedFor) {
  base::Random random(2);
  const EinsumShape s{
      .tokens = 70,
      .first_in = 5,
      .second_in = 2,
      .gamma = 4,
      .second_out = 6,
      .phi = 3};
  const Operands o = random_operands(random, s);
  const Results all = run(s, o, GetParam(), 2, kL2);
  for (int bits = 0; bits < 32; ++bits) {
    Results some = all;
    for (Floats* part :
         {&some.x, &some.first, &some.second, &some.bias, &some.scale}) {
      std::fill(part->begin(), part->end(), kNan);
    }
    const EinsumTiling tiling =
        plan_einsum_linear(s, EinsumPass::kBackward, GetParam(), 2, kL2);
    const AlignedFloats space(tiling.workers * tiling.workspace);
    const auto asked = [&](int bit, Floats& to) {
      return (bits >> bit & 1) != 0 ? to.data() : nullptr;
    };
    const EinsumBackward args{
        s,
        tiling,
        {},
        o.grad.data(),
        o.x.data(),
        o.first.data(),
        o.second.data(),
        asked(0, some.x),
        asked(1, some.first),
        asked(2, some.second),
        asked(3, some.bias),
        asked(4, some.scale)};
    for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
      einsum_linear_backward(
          args, GetParam(), worker, space.data + worker * tiling.workspace);
    }
    for (std::int64_t worker = 0; worker < tiling.workers; ++worker) {
      einsum_linear_reduce(args, GetParam(), worker, space.data);
    }
    const auto expect = [&](int bit, const Floats& got, const Floats& full) {
      if ((bits >> bit & 1) != 0) {
        EXPECT_EQ(got, full) << bits;
      } else {
        EXPECT_TRUE(std::isnan(got[0])) << bits;
      }
    };
    expect(0, some.x, all.x);
    expect(1, some.first, all.first);
    expect(2, some.second, all.second);
    expect(3, some.bias, all.bias);
    expect(4, some.scale, all.scale);
  }
}

TEST_P(EinsumLinear, EachTokensOutputIsItsOwn) {
  base::Random random(3);
  const EinsumShape s{
      .tokens = 200,
      .first_in = 8,
      .gamma = 8,
      .second_out = 8,
      .phi = 8,
      .rho = 2};
  Operands o = random_operands(random, s);
  const Results before = run(s, o, GetParam(), 2, kL2);
  o.x[static_cast<size_t>(130 * s.d_in() + 3)] = kNan;
  const Results after = run(s, o, GetParam(), 2, kL2);
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    for (std::int64_t c = 0; c < s.d_out(); ++c) {
      const auto i = static_cast<size_t>(t * s.d_out() + c);
      if (t == 130) {
        EXPECT_TRUE(std::isnan(after.y[i]));
      } else {
        EXPECT_EQ(after.y[i], before.y[i]);
      }
    }
  }
}

TEST(EinsumTiling, GivesEveryWorkerSomethingToDo) {
  for (std::int64_t tokens = 1; tokens < 300; ++tokens) {
    for (const std::int64_t workers : {1, 2, 3, 8}) {
      const EinsumShape s{
          .tokens = tokens,
          .first_in = 4,
          .gamma = 4,
          .second_out = 4,
          .phi = 4};
      const EinsumTiling tiling = plan_einsum_linear(
          s, EinsumPass::kForward, Isa::kPortable, workers, kL2);
      const std::int64_t tiles = (tokens + tiling.tile - 1) / tiling.tile;
      EXPECT_GE(tiling.workers, 1);
      EXPECT_LE(tiling.workers, std::min(tiles, workers));
    }
  }
}

}  // namespace
}  // namespace einforge::kernels::cpu
