#include "einforge/scaling/power_law.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <limits>

namespace einforge::scaling {
namespace {

constexpr double kSmallestExponent = 1e-4;
constexpr double kLargestExponent = 10;
// The floor stays below the lowest loss seen, or a law could not reach it.
constexpr double kHighestFloor = 0.9999;
constexpr double kHuber = 3;

// Inside the fit each x is centred, which decouples scale and exponent.
// Parameters: the floor, then log scale and exponent of each law.
class Problem {
 public:
  using Laws = std::vector<PowerLaw>;

  Problem(std::span<const Sample> samples, const FitOptions& options)
      : samples_(samples.begin(), samples.end()),
        with_floor_(options.with_floor) {
    double lowest = options.lowest;
    for (Sample& sample : samples_) {
      double weight = 0;
      double sum = 0;
      for (std::size_t i = 0; i < sample.x.size(); ++i) {
        weight += sample.weights[i];
        sum += sample.weights[i] * sample.x[i];
        lowest = std::min(lowest, sample.y[i]);
      }
      centres_.push_back(sum / weight);
      for (double& x : sample.x) {
        x -= centres_.back();
      }
      huber_.emplace_back(sample.x.size(), 1.0);
    }
    highest_floor_ = kHighestFloor * std::exp(lowest);
  }

  double highest_floor() const { return highest_floor_; }

  // The best exponents and scales for a floor, by linear regression of
  // log(loss - floor); errors of log(loss) grow by loss / (loss - floor).
  Laws start_at(double floor) const {
    Laws laws;
    for (const Sample& sample : samples_) {
      double w = 0, wx = 0, wz = 0, wxx = 0, wxz = 0;
      for (std::size_t i = 0; i < sample.x.size(); ++i) {
        const double loss = std::exp(sample.y[i]);
        const double z = std::log(loss - floor);
        const double weight =
            sample.weights[i] * std::pow((loss - floor) / loss, 2);
        w += weight;
        wx += weight * sample.x[i];
        wz += weight * z;
        wxx += weight * sample.x[i] * sample.x[i];
        wxz += weight * sample.x[i] * z;
      }
      const double slope =
          (w * wxz - wx * wz) / std::max(w * wxx - wx * wx, 1e-300);
      PowerLaw law;
      law.floor = floor;
      law.exponent = std::clamp(-slope, kSmallestExponent, kLargestExponent);
      law.log_scale = (wz + law.exponent * wx) / w;
      laws.push_back(law);
    }
    return laws;
  }

  double cost(const Laws& laws) const {
    double sum = 0;
    for (std::size_t s = 0; s < samples_.size(); ++s) {
      for (std::size_t i = 0; i < samples_[s].x.size(); ++i) {
        const double error = residual(laws, s, i);
        sum += samples_[s].weights[i] * huber_[s][i] * error * error;
      }
    }
    return sum;
  }

  void reweight(const Laws& laws) {
    std::vector<double> sizes;
    for (std::size_t s = 0; s < samples_.size(); ++s) {
      for (std::size_t i = 0; i < samples_[s].x.size(); ++i) {
        sizes.push_back(std::abs(residual(laws, s, i)));
      }
    }
    const auto middle =
        sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 2);
    std::nth_element(sizes.begin(), middle, sizes.end());
    // 1.4826 times the median of |residual| is a normal's standard deviation.
    const double limit = std::max(kHuber * 1.4826 * *middle, 1e-9);
    for (std::size_t s = 0; s < samples_.size(); ++s) {
      for (std::size_t i = 0; i < samples_[s].x.size(); ++i) {
        const double size = std::abs(residual(laws, s, i));
        huber_[s][i] = size <= limit ? 1.0 : limit / size;
      }
    }
  }

  Laws descend(Laws laws) const {
    double now = cost(laws);
    double damping = 1e-3;
    for (int iteration = 0; iteration < 60; ++iteration) {
      const Linearised at = linearise(laws);
      bool improved = false;
      for (; damping < 1e12 && !improved; damping *= 8) {
        const Laws next = step(laws, at, damping);
        const double then = cost(next);
        if (then < now) {
          const bool settled = now - then < 1e-10 * now;
          laws = next;
          now = then;
          if (settled) {
            return laws;
          }
          damping = std::max(damping / 16, 1e-9) / 8;
          improved = true;
        }
      }
      if (!improved) {
        return laws;
      }
    }
    return laws;
  }

  Laws to_centred(Laws laws) const {
    for (std::size_t s = 0; s < laws.size(); ++s) {
      laws[s].log_scale -= laws[s].exponent * centres_[s];
      laws[s].floor = std::clamp(laws[0].floor, 0.0, highest_floor_);
    }
    return laws;
  }
  Laws from_centred(Laws laws) const {
    for (std::size_t s = 0; s < laws.size(); ++s) {
      laws[s].log_scale += laws[s].exponent * centres_[s];
    }
    return laws;
  }

 private:
  double residual(const Laws& laws, std::size_t s, std::size_t i) const {
    return laws[s].log_loss(samples_[s].x[i]) - samples_[s].y[i];
  }

  // J^T J and J^T r. The laws meet in the floor alone, so that all but its row
  // and column is blocks of two by two: solving takes time linear in laws.
  struct Linearised {
    double floor = 0;
    double floor_gradient = 0;
    struct Law {
      Eigen::Vector2d cross;  // with the floor
      Eigen::Matrix2d block;
      Eigen::Vector2d gradient;
    };
    std::vector<Law> laws;
    bool floor_moves = true;
  };

  Linearised linearise(const Laws& laws) const {
    Linearised result;
    for (std::size_t s = 0; s < laws.size(); ++s) {
      const PowerLaw& law = laws[s];
      Eigen::Matrix3d block = Eigen::Matrix3d::Zero();
      Eigen::Vector3d right = Eigen::Vector3d::Zero();
      for (std::size_t i = 0; i < samples_[s].x.size(); ++i) {
        const double x = samples_[s].x[i];
        const double term = std::exp(law.log_scale - law.exponent * x);
        const double loss = law.floor + term;
        const double weight = samples_[s].weights[i] * huber_[s][i];
        const Eigen::Vector3d row(1 / loss, term / loss, -x * term / loss);
        block.noalias() += weight * row * row.transpose();
        right += weight * (std::log(loss) - samples_[s].y[i]) * row;
      }
      result.floor += block(0, 0);
      result.floor_gradient += right[0];
      // An exponent at a bound moves only inwards: a step that is cut there
      // would not be downhill for the other parameters.
      const bool is_stuck =
          (law.exponent <= kSmallestExponent && right[2] > 0) ||
          (law.exponent >= kLargestExponent && right[2] < 0);
      if (is_stuck) {
        block.row(2).setZero();
        block.col(2).setZero();
        block(2, 2) = 1;
        right[2] = 0;
      }
      result.laws.push_back(
          {block.block<2, 1>(1, 0), block.block<2, 2>(1, 1), right.tail<2>()});
    }
    // At its bound the floor moves only inwards.
    result.floor_moves =
        with_floor_ && (laws[0].floor > 0 || result.floor_gradient <= 0);
    return result;
  }

  // A damped Gauss-Newton step from `laws`.
  Laws step(const Laws& laws, const Linearised& at, double damping) const {
    constexpr double kTiny = 1e-300;
    std::vector<Eigen::Matrix2d> inverses;
    double floor = at.floor * (1 + damping) + kTiny;
    double gradient = at.floor_gradient;
    for (const auto& law : at.laws) {
      Eigen::Matrix2d block = law.block;
      block.diagonal() *= 1 + damping;
      block.diagonal().array() += kTiny;
      const double determinant = block.determinant();
      inverses.push_back(
          determinant > 0
              ? Eigen::Matrix2d(block.inverse())
              : Eigen::Matrix2d(block.diagonal().cwiseInverse().asDiagonal()));
      floor -= law.cross.dot(inverses.back() * law.cross);
      gradient -= law.cross.dot(inverses.back() * law.gradient);
    }
    const double move = at.floor_moves && floor > 0 ? -gradient / floor : 0.0;
    Laws next = laws;
    for (std::size_t s = 0; s < laws.size(); ++s) {
      const Eigen::Vector2d change =
          -inverses[s] * (at.laws[s].gradient + move * at.laws[s].cross);
      PowerLaw& law = next[s];
      law.floor = std::clamp(law.floor + move, 0.0, highest_floor_);
      law.log_scale += change[0];
      law.exponent = std::clamp(
          law.exponent + change[1], kSmallestExponent, kLargestExponent);
    }
    return next;
  }

  std::vector<Sample> samples_;
  std::vector<std::vector<double>> huber_;
  std::vector<double> centres_;
  bool with_floor_;
  double highest_floor_ = 0;
};

}  // namespace

double PowerLaw::log_loss(double log_compute) const {
  return std::log(floor + std::exp(log_scale - exponent * log_compute));
}

std::vector<PowerLaw> fit_power_laws(
    std::span<const Sample> samples, const FitOptions& options) {
  Problem problem(samples, options);
  std::vector<PowerLaw> best;
  if (options.start) {
    best = problem.descend(problem.to_centred(*options.start));
  } else if (!options.with_floor) {
    best = problem.descend(problem.start_at(0));
  } else {
    // The cost can have a second valley near a high floor.
    double lowest = std::numeric_limits<double>::infinity();
    for (const double share : {0.0, 0.4, 0.7, 0.85, 0.95, 0.99}) {
      const auto laws =
          problem.descend(problem.start_at(share * problem.highest_floor()));
      const double cost = problem.cost(laws);
      if (best.empty() || cost < lowest) {
        lowest = cost;
        best = laws;
      }
    }
  }
  const int rounds = options.start ? 2 : 10;
  for (int round = 0; round < rounds; ++round) {
    problem.reweight(best);
    best = problem.descend(best);
  }
  return problem.from_centred(best);
}

}  // namespace einforge::scaling
