#pragma once

#include <Eigen/Core>

#include <cstdint>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/structure/theta.h"

// The definition of a two-core einsum layer, in loops and nothing else.
namespace einforge::structure::testing {

struct Cores {
  Sizes n;
  std::vector<double> a;  // (alpha, gamma, delta, phi, rho)
  std::vector<double> b;  // (beta, gamma, epsilon, phi, rho)

  double& at_a(
      std::int64_t al,
      std::int64_t g,
      std::int64_t d,
      std::int64_t f,
      std::int64_t r) {
    return a[static_cast<std::size_t>(
        (((al * n.gamma + g) * n.delta + d) * n.phi + f) * n.rho + r)];
  }
  double& at_b(
      std::int64_t be,
      std::int64_t g,
      std::int64_t e,
      std::int64_t f,
      std::int64_t r) {
    return b[static_cast<std::size_t>(
        (((be * n.gamma + g) * n.epsilon + e) * n.phi + f) * n.rho + r)];
  }
};

inline std::vector<double> normals(std::int64_t count, base::Random& random) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) {
    value = random.normal();
  }
  return values;
}

// Allocated entry by entry, so that a.size() + b.size() counts parameters.
inline Cores random_cores(const Sizes& n, base::Random& random) {
  Cores cores{n, {}, {}};
  cores.a = normals(n.alpha * n.gamma * n.delta * n.phi * n.rho, random);
  cores.b = normals(n.beta * n.gamma * n.epsilon * n.phi * n.rho, random);
  return cores;
}

// f(alpha, beta, gamma, delta, epsilon, phi, rho) for every index.
template <typename F>
void for_each_index(const Sizes& n, F&& f) {
  for (std::int64_t al = 0; al < n.alpha; ++al) {
    for (std::int64_t be = 0; be < n.beta; ++be) {
      for (std::int64_t g = 0; g < n.gamma; ++g) {
        for (std::int64_t d = 0; d < n.delta; ++d) {
          for (std::int64_t e = 0; e < n.epsilon; ++e) {
            for (std::int64_t p = 0; p < n.phi; ++p) {
              for (std::int64_t r = 0; r < n.rho; ++r) {
                f(al, be, g, d, e, p, r);
              }
            }
          }
        }
      }
    }
  }
}

inline Eigen::Index input_index(
    const Sizes& n, std::int64_t al, std::int64_t be, std::int64_t g) {
  return (al * n.beta + be) * n.gamma + g;
}

inline Eigen::Index output_index(
    const Sizes& n, std::int64_t d, std::int64_t e, std::int64_t f) {
  return (d * n.epsilon + e) * n.phi + f;
}

// The (d_out, d_in) matrix of the layer.
inline Eigen::MatrixXd dense_matrix(Cores& cores) {
  const Sizes& n = cores.n;
  Eigen::MatrixXd w = Eigen::MatrixXd::Zero(n.d_out(), n.d_in());
  for_each_index(
      n, [&](auto al, auto be, auto g, auto d, auto e, auto f, auto r) {
        w(output_index(n, d, e, f), input_index(n, al, be, g)) +=
            cores.at_a(al, g, d, f, r) * cores.at_b(be, g, e, f, r);
      });
  return w;
}

struct Contraction {
  Eigen::VectorXd y;
  std::int64_t macs = 0;  // multiplications really done
};

// Contracts A with x over alpha, then B over (beta, gamma, rho); or B first.
inline Contraction contract(
    Cores& cores, const Eigen::VectorXd& x, bool a_first) {
  const Sizes& n = cores.n;
  Contraction result{Eigen::VectorXd::Zero(n.d_out())};
  // The index that the first core removes from x, and the one it adds.
  const Sizes kept =
      a_first ? Sizes{1, n.beta, n.gamma, n.delta, 1, n.phi, n.rho}
              : Sizes{n.alpha, 1, n.gamma, 1, n.epsilon, n.phi, n.rho};
  for_each_index(
      kept, [&](auto al, auto be, auto g, auto d, auto e, auto f, auto r) {
        double z = 0;
        const std::int64_t summed = a_first ? n.alpha : n.beta;
        for (std::int64_t i = 0; i < summed; ++i) {
          z += a_first
                   ? cores.at_a(i, g, d, f, r) * x(input_index(n, i, be, g))
                   : cores.at_b(i, g, e, f, r) * x(input_index(n, al, i, g));
          ++result.macs;
        }
        const std::int64_t made = a_first ? n.epsilon : n.delta;
        for (std::int64_t i = 0; i < made; ++i) {
          if (a_first) {
            result.y(output_index(n, d, i, f)) +=
                cores.at_b(be, g, i, f, r) * z;
          } else {
            result.y(output_index(n, i, e, f)) +=
                cores.at_a(al, g, i, f, r) * z;
          }
          ++result.macs;
        }
      });
  return result;
}

// By singular values.
std::int64_t numerical_rank(const Eigen::MatrixXd& w);

// Random sizes with d_in, d_out <= widest, and ranks from 1 to 4.
inline Sizes random_sizes(base::Random& random, std::int64_t widest) {
  const auto draw = [&](std::uint64_t largest) {
    // A third of the sizes are 1: the corners of the space.
    return random.below(3) == 0
               ? std::int64_t{1}
               : static_cast<std::int64_t>(1 + random.below(largest));
  };
  for (;;) {
    const Sizes n = {
        draw(8), draw(8), draw(8), draw(8), draw(8), draw(8), draw(4)};
    if (n.d_in() <= widest && n.d_out() <= widest) {
      return n;
    }
  }
}

}  // namespace einforge::structure::testing
