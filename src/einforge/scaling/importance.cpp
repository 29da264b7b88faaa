#include "einforge/scaling/importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "einforge/base/random.h"

namespace einforge::scaling {
namespace {

// The levels of one axis that a part of the space has.
using Levels = std::vector<bool>;

struct Leaf {
  std::vector<Levels> box;  // beside the axes
  double value = 0;
};

struct Split {
  std::size_t axis = 0;
  Levels left;      // of the levels in the box
  double gain = 0;  // by which the sum of squares falls
};

class Tree {
 public:
  Tree(
      const std::vector<Axis>& axes,
      const std::vector<AxisSample>& samples,
      std::vector<std::size_t> chosen)
      : axes_(axes), samples_(samples) {
    std::vector<Levels> all;
    for (const Axis& axis : axes) {
      all.emplace_back(static_cast<std::size_t>(axis.levels), true);
    }
    grow(std::move(all), std::move(chosen));
  }

  // Shares of the variance beside the axes, then of what is left.
  std::vector<double> shares(int held) const {
    std::vector<double> result(axes_.size() + 1);
    double mean = 0;
    double square = 0;
    for (const Leaf& leaf : leaves_) {
      const double weight = share_but(leaf, axes_.size(), held);
      mean += weight * leaf.value;
      square += weight * leaf.value * leaf.value;
    }
    const double all = square - mean * mean;
    constexpr double kRounding = 1e-12;
    if (all <= kRounding * square) {
      return result;
    }
    double left = 1;
    for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
      if (static_cast<int>(axis) != held) {
        result[axis] = marginal_variance(axis, held, mean) / all;
        left -= result[axis];
      }
    }
    result.back() = std::max(0.0, left);
    return result;
  }

 private:
  void grow(std::vector<Levels> box, std::vector<std::size_t> members) {
    const Split split = best_split(box, members);
    if (split.gain <= 0) {
      double sum = 0;
      for (const std::size_t member : members) {
        sum += samples_[member].value;
      }
      leaves_.push_back(
          {std::move(box), sum / static_cast<double>(members.size())});
      return;
    }
    const auto middle =
        std::ranges::partition(members, [&](std::size_t member) {
          return split.left[level_of(member, split.axis)];
        });
    std::vector<std::size_t> right(middle.begin(), middle.end());
    members.erase(middle.begin(), middle.end());
    std::vector<Levels> other = box;
    for (std::size_t level = 0; level < split.left.size(); ++level) {
      other[split.axis][level] = box[split.axis][level] && !split.left[level];
    }
    box[split.axis] = split.left;
    grow(std::move(box), std::move(members));
    grow(std::move(other), std::move(right));
  }

  std::size_t level_of(std::size_t member, std::size_t axis) const {
    return static_cast<std::size_t>(samples_[member].levels[axis]);
  }

  Split best_split(
      const std::vector<Levels>& box,
      const std::vector<std::size_t>& members) const {
    Split best;
    double all = 0;
    for (const std::size_t member : members) {
      all += samples_[member].value;
    }
    const auto size = static_cast<double>(members.size());
    const double whole = all * all / size;
    for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
      struct Sum {
        std::size_t level = 0;
        double sum = 0;
        double count = 0;
      };
      std::vector<Sum> sums(box[axis].size());
      for (std::size_t level = 0; level < sums.size(); ++level) {
        sums[level].level = level;
      }
      for (const std::size_t member : members) {
        Sum& sum = sums[level_of(member, axis)];
        sum.sum += samples_[member].value;
        ++sum.count;
      }
      std::erase_if(sums, [](const Sum& sum) { return sum.count == 0; });
      // The best cut of unordered levels is one of their order by means
      // (Breiman et al., CART, section 4.2.2).
      if (!axes_[axis].ordered) {
        std::ranges::stable_sort(
            sums, {}, [](const Sum& sum) { return sum.sum / sum.count; });
      }
      double sum = 0;
      double count = 0;
      for (std::size_t cut = 0; cut + 1 < sums.size(); ++cut) {
        sum += sums[cut].sum;
        count += sums[cut].count;
        if (count < kLeast_ || size - count < kLeast_) {
          continue;
        }
        const double gain = sum * sum / count +
                            (all - sum) * (all - sum) / (size - count) - whole;
        constexpr double kRounding = 1e-12;
        if (gain > best.gain + kRounding * std::abs(whole)) {
          best = {axis, left_of(box[axis], axis, sums, cut), gain};
        }
      }
    }
    return best;
  }

  // The levels up to the cut; those without samples go with the nearest that
  // has some, or, without an order, with the more samples.
  template <typename Sums>
  Levels left_of(
      const Levels& box,
      std::size_t axis,
      const Sums& sums,
      std::size_t cut) const {
    Levels left(box.size());
    if (axes_[axis].ordered) {
      const std::size_t last = (sums[cut].level + sums[cut + 1].level) / 2;
      for (std::size_t level = 0; level < box.size(); ++level) {
        left[level] = box[level] && level <= last;
      }
      return left;
    }
    double on_left = 0;
    double on_right = 0;
    std::vector<int> side(box.size(), -1);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      side[sums[i].level] = i <= cut ? 1 : 0;
      (i <= cut ? on_left : on_right) += sums[i].count;
    }
    for (std::size_t level = 0; level < box.size(); ++level) {
      left[level] = box[level] && (side[level] == 1 ||
                                   (side[level] < 0 && on_left > on_right));
    }
    return left;
  }

  // The share of the space that the leaf has, whatever the level of one axis.
  double share_but(const Leaf& leaf, std::size_t axis, int held) const {
    double share = 1;
    for (std::size_t i = 0; i < axes_.size(); ++i) {
      const Levels& levels = leaf.box[i];
      if (static_cast<int>(i) == held) {
        share *= levels.back() ? 1 : 0;
      } else if (i != axis) {
        share *= static_cast<double>(std::ranges::count(levels, true)) /
                 static_cast<double>(levels.size());
      }
    }
    return share;
  }

  double marginal_variance(std::size_t axis, int held, double mean) const {
    std::vector<double> marginal(leaves_.front().box[axis].size());
    for (const Leaf& leaf : leaves_) {
      const double weight = share_but(leaf, axis, held);
      for (std::size_t level = 0; level < marginal.size(); ++level) {
        marginal[level] += leaf.box[axis][level] ? weight * leaf.value : 0;
      }
    }
    double variance = 0;
    for (const double value : marginal) {
      variance += (value - mean) * (value - mean);
    }
    return variance / static_cast<double>(marginal.size());
  }

  const std::vector<Axis>& axes_;
  const std::vector<AxisSample>& samples_;
  std::vector<Leaf> leaves_;
  static constexpr double kLeast_ = 1;  // samples of a leaf
};

// Of ordered values, linear between them.
double quantile(const std::vector<double>& ordered, double share) {
  const double at = share * static_cast<double>(ordered.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, ordered.size() - 1);
  return ordered[low] +
         (at - static_cast<double>(low)) * (ordered[high] - ordered[low]);
}

}  // namespace

Importances importances(
    const std::vector<Axis>& axes,
    const std::vector<AxisSample>& samples,
    const ImportanceOptions& options) {
  Importances result;
  result.axes.resize(axes.size());
  if (samples.empty()) {
    return result;
  }
  base::Random random(options.seed);
  std::vector<std::vector<double>> shares(axes.size() + 1);
  for (int tree = 0; tree < options.trees; ++tree) {
    std::vector<std::size_t> chosen(samples.size());
    std::iota(chosen.begin(), chosen.end(), std::size_t{0});
    if (options.resample) {
      for (std::size_t& index : chosen) {
        index = random.below(samples.size());
      }
    }
    const std::vector<double> found =
        Tree(axes, samples, std::move(chosen)).shares(options.held);
    for (std::size_t i = 0; i < found.size(); ++i) {
      shares[i].push_back(found[i]);
    }
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    std::ranges::sort(shares[i]);
    Importance& importance = i < axes.size() ? result.axes[i] : result.together;
    importance.share =
        std::accumulate(shares[i].begin(), shares[i].end(), 0.0) /
        static_cast<double>(shares[i].size());
    importance.ci95 = {quantile(shares[i], 0.025), quantile(shares[i], 0.975)};
  }
  return result;
}

}  // namespace einforge::scaling
