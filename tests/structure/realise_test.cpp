#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "einforge/base/error.h"
#include "einforge/structure/structure.h"
#include "tests/structure/brute_force.h"

namespace einforge::structure {
namespace {

using ::testing::HasSubstr;

std::string error_of(
    const char* text,
    std::int64_t d_in,
    std::int64_t d_out,
    const FactorOptions& options = {}) {
  try {
    realise(parse(text), d_in, d_out, options);
  } catch (const base::InvalidInput& error) {
    return error.what();
  }
  return "no error";
}

TEST(Realise, ChoosesTheSizesOneWouldByHand) {
  struct Case {
    const char* text;
    std::int64_t d_in;
    std::int64_t d_out;
    Sizes sizes;
  };
  const std::vector<Case> cases = {
      {"monarch", 1024, 1024, {32, 1, 32, 1, 32, 32, 1}},
      {"monarch", 64, 64, {8, 1, 8, 1, 8, 8, 1}},
      {"monarch", 8, 8, {2, 1, 4, 1, 4, 2, 1}},
      {"monarch", 768, 768, {24, 1, 32, 1, 32, 24, 1}},
      {"monarch", 1024, 2048, {32, 1, 32, 1, 64, 32, 1}},
      // 24 x 40 rather than 30 x 32: multiples of 8
      {"monarch", 960, 960, {24, 1, 40, 1, 40, 24, 1}},
      {"kronecker", 256, 256, {16, 16, 1, 16, 16, 1, 1}},
      {"kronecker", 768, 768, {24, 32, 1, 24, 32, 1, 1}},
      {"btt:0.25", 4096, 4096, {64, 1, 64, 1, 64, 64, 8}},
      {"btt:0,alpha=1/3", 512, 512, {8, 1, 64, 1, 64, 8, 1}},
      {"low_rank:0.5", 1024, 4096, {1024, 1, 1, 1, 4096, 1, 32}},
      // 1024^0.75 = 181.02
      {"low_rank:0.75", 1024, 1024, {1024, 1, 1, 1, 1024, 1, 184}},
      {"low_rank:1", 100, 300, {100, 1, 1, 1, 300, 1, 100}},
      {"low_rank:0", 100, 300, {100, 1, 1, 1, 300, 1, 1}},
      {"theta:0.5,0.25,0.25,0.25,0.5,0.25,0",
       256,
       256,
       {16, 4, 4, 4, 16, 4, 1}},
      {"dense", 7, 13, {7, 1, 1, 1, 13, 1, 7}},
      {"monarch", 1, 1, {1, 1, 1, 1, 1, 1, 1}},
  };
  for (const Case& c : cases) {
    const Structure layer = realise(parse(c.text), c.d_in, c.d_out);
    EXPECT_EQ(layer.sizes.values(), c.sizes.values())
        << c.text << ' ' << c.d_in << ' ' << c.d_out;
  }
}

// Widths that models really have, in every pairing.
const std::vector<std::int64_t> kWidths = {
    32,  64,   96,   128,  192,  256,  320,  384,  512,  640,
    768, 1024, 1280, 1536, 1600, 2048, 2560, 3072, 4096, 5120};

TEST(Realise, KeepsEveryPropertyAtRealWidths) {
  std::vector<Spec> specs;
  for (const Theta& theta : paper_sweep()) {
    specs.push_back(to_spec(theta));
  }
  const FactorOptions options;
  for (const Spec& spec : specs) {
    for (const std::int64_t d_in : kWidths) {
      for (const std::int64_t d_out : kWidths) {
        const Structure layer = realise(spec, d_in, d_out, options);
        const Sizes& n = layer.sizes;
        SCOPED_TRACE(fmt::format(
            "{} {} -> {}: {}",
            spec.text,
            d_in,
            d_out,
            ::testing::PrintToString(n.values())));
        // Nothing dropped, nothing padded.
        ASSERT_EQ(n.d_in(), d_in);
        ASSERT_EQ(n.d_out(), d_out);
        const auto asked = spec.theta.values();
        const auto got = realised_theta(layer).values();
        for (std::size_t i = 0; i < 7; ++i) {
          ASSERT_GE(n.values()[i], 1);
          if (asked[i] == 0) {
            ASSERT_EQ(n.values()[i], 1);
          }
          ASSERT_NEAR(got[i], asked[i], options.tolerance + 1e-12);
        }
        // A structure of full rank is of full rank at every width.
        if (taxonomy(spec.theta).psi == 1) {
          ASSERT_EQ(taxonomy(layer).psi, 1);
        }
        if (taxonomy(spec.theta).omega == 0 && n.beta == 1 && n.delta == 1) {
          ASSERT_EQ(taxonomy(layer).omega, 0);
        }
      }
    }
  }
}

// Against trying all factorisations with loops: nothing is nearer, but for
// what the preference and the rank may cost.
TEST(Realise, IsNearestWithoutPreferences) {
  const FactorOptions plain{1, 0.5};
  base::Random random(1);
  int compared = 0;
  for (int i = 0; i < 2000; ++i) {
    const Spec spec = to_spec(sample(random));
    if (taxonomy(spec.theta).psi == 1) {
      continue;
    }
    const auto d = static_cast<std::int64_t>(2 + random.below(300));
    const std::array<double, 3> t = {
        spec.theta.alpha, spec.theta.beta, spec.theta.gamma};
    double nearest = 1e9;
    for (std::int64_t a = 1; a <= d; ++a) {
      for (std::int64_t b = 1; a * b <= d; ++b) {
        if (d % (a * b) != 0) {
          continue;
        }
        const std::array<std::int64_t, 3> sizes = {a, b, d / a / b};
        double distance = 0;
        bool allowed = true;
        for (std::size_t k = 0; k < 3; ++k) {
          const double away = std::log(static_cast<double>(sizes[k])) /
                                  std::log(static_cast<double>(d)) -
                              t[k];
          distance += away * away;
          allowed = allowed && std::abs(away) <= plain.tolerance &&
                    (t[k] > 0 || sizes[k] == 1);
        }
        if (allowed) {
          nearest = std::min(nearest, distance);
        }
      }
    }
    if (nearest > 1e8) {
      EXPECT_NE(error_of(spec.text.c_str(), d, 4096, plain), "no error");
      continue;
    }
    const Structure layer = realise(spec, d, 4096, plain);
    const Theta got = realised_theta(layer);
    const double distance = std::pow(got.alpha - t[0], 2) +
                            std::pow(got.beta - t[1], 2) +
                            std::pow(got.gamma - t[2], 2);
    // The MACs settle ties and may cost a hundredth of an exponent.
    EXPECT_LE(std::sqrt(distance), std::sqrt(nearest) + 0.02)
        << spec.text << ' ' << d;
    ++compared;
  }
  EXPECT_GT(compared, 100);
}

TEST(Realise, NamesTheNearestWidthForAPrime) {
  EXPECT_THAT(error_of("monarch", 1021, 1024), HasSubstr("d_in"));
  EXPECT_THAT(error_of("monarch", 1021, 1024), HasSubstr("got 1021"));
  EXPECT_THAT(
      error_of("monarch", 1021, 1024),
      HasSubstr("nearest width that has one is 1022 (1024 as a multiple of 8); "
                "monarch:pad pads to 1024"));
  EXPECT_THAT(error_of("monarch", 1024, 509), HasSubstr("d_out"));
  EXPECT_THAT(error_of("btt:0.25", 7, 64), HasSubstr("is 8"));
  EXPECT_THAT(error_of("kronecker", 64, 131), HasSubstr("is 132"));
  // A prime is no trouble where no factors are asked for.
  EXPECT_EQ(error_of("low_rank:0.5", 1021, 509), "no error");
  EXPECT_EQ(error_of("dense", 1021, 509), "no error");
}

TEST(Realise, PadsOnlyWhatHasNoFactorisationAndOnlyWhenAsked) {
  const Structure layer = realise(parse("monarch:pad"), 1021, 768);
  EXPECT_EQ(layer.d_in, 1021);
  EXPECT_EQ(layer.d_out, 768);
  EXPECT_EQ(layer.sizes.d_in(), 1024);
  EXPECT_EQ(layer.sizes.d_out(), 768);
  // Inside is the layer that one would have got at those widths.
  Structure exact = realise(parse("monarch"), 1024, 768);
  EXPECT_EQ(padded(layer).sizes, exact.sizes);
  EXPECT_EQ(padded(layer).d_in, 1024);
  EXPECT_EQ(macs(layer), macs(exact));
  EXPECT_EQ(parameters(layer), parameters(exact));
  EXPECT_EQ(realised_theta(layer).values(), realised_theta(exact).values());
  EXPECT_EQ(generic_rank(layer), 768);
  // A width that fits stays as it is.
  const Structure fits = realise(parse("monarch:pad"), 1024, 768);
  EXPECT_EQ(fits.sizes, exact.sizes);
  EXPECT_EQ(padded(fits), fits);
  EXPECT_THROW(realise(parse("monarch"), 1021, 768), base::InvalidInput);
  EXPECT_THROW(realise(parse("monarch:pad"), 0, 768), base::InvalidInput);
  EXPECT_THROW(
      realise(parse("monarch:pad"), 2'000'003, 768), base::InvalidInput);
}

// Rank of the matrix without the features that padding added.
TEST(Realise, PaddedRankIsAtMostTheNumberGiven) {
  base::Random random(3);
  int exact = 0;
  int count = 0;
  for (const char* text :
       {"monarch:pad", "kronecker:pad", "btt:0.25,pad", "low_rank:0.5,pad"}) {
    for (const std::int64_t d_in : {11, 13, 22, 23}) {
      for (const std::int64_t d_out : {11, 17, 24, 29}) {
        const Structure layer = realise(parse(text), d_in, d_out);
        testing::Cores cores = testing::random_cores(layer.sizes, random);
        const Eigen::MatrixXd matrix =
            testing::dense_matrix(cores).topLeftCorner(d_out, d_in);
        const auto rank = testing::numerical_rank(matrix);
        EXPECT_LE(rank, generic_rank(layer)) << text << d_in << " " << d_out;
        exact += rank == generic_rank(layer) ? 1 : 0;
        ++count;
      }
    }
  }
  EXPECT_GE(exact, count * 9 / 10);
}

TEST(Realise, TheNamedWidthWorks) {
  for (const std::int64_t prime : {5, 7, 13, 31, 127, 257, 509, 1021, 8191}) {
    const std::string error = error_of("monarch", prime, 1024);
    const std::string marker = "has one is ";
    const std::size_t at = error.find(marker);
    ASSERT_NE(at, std::string::npos) << error;
    const long long width = std::stoll(error.substr(at + marker.size()));
    EXPECT_EQ(error_of("monarch", width, 1024), "no error") << width;
  }
}

TEST(Realise, RejectsWidthsAndOptionsOutOfRange) {
  EXPECT_THAT(error_of("dense", 0, 1), HasSubstr("got 0"));
  EXPECT_THAT(error_of("dense", 1, -4), HasSubstr("got -4"));
  EXPECT_THAT(
      error_of("dense", std::int64_t{1} << 40, 1), HasSubstr("1048576"));
  EXPECT_THAT(error_of("monarch", 64, 64, {0, 0.1}), HasSubstr("multiple"));
  EXPECT_THAT(error_of("monarch", 64, 64, {8, -1}), HasSubstr("tolerance"));
  EXPECT_THAT(
      error_of("monarch", 64, 64, {8, std::nan("")}), HasSubstr("tolerance"));
}

TEST(Realise, ToleranceAndMultipleAreTheUsers) {
  // 32 = 4 x 8, off by 0.1 of an exponent.
  EXPECT_EQ(error_of("monarch", 32, 32, {8, 0.11}), "no error");
  EXPECT_THAT(error_of("monarch", 32, 32, {8, 0.09}), HasSubstr("none"));
  const Structure plain = realise(parse("monarch"), 960, 960, {1, 0.17});
  EXPECT_EQ(plain.sizes.alpha, 30);
  EXPECT_EQ(plain.sizes.gamma, 32);
}

TEST(Realise, IsDeterministicAndFastOnCompositeWidths) {
  const Spec spec = parse("theta:0.4,0.3,0.3,0.3,0.4,0.3,0.1");
  // 720720 has 240 divisors.
  const Structure a = realise(spec, 720720, 720720);
  EXPECT_EQ(a, realise(spec, 720720, 720720));
  EXPECT_EQ(a.sizes.d_in(), 720720);
}

TEST(Realise, EverySampledPointWorksAtPowersOfTwo) {
  base::Random random(2);
  for (int i = 0; i < 500; ++i) {
    const Spec spec = to_spec(sample(random));
    const Structure layer = realise(spec, 1024, 4096);
    EXPECT_EQ(layer.sizes.d_in(), 1024);
    EXPECT_EQ(layer.sizes.d_out(), 4096);
  }
}

}  // namespace
}  // namespace einforge::structure
