#include "einforge/search/layer_sums.h"

#include <fmt/format.h>

#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "einforge/models/plan.h"
#include "einforge/train/summary.h"

namespace einforge::search {
namespace {

using Eigen::Index;

// Terms of a model and how often it has each.
std::map<std::string, double> terms_of(const Proposal& proposal) {
  const models::ModelPlan plan =
      train::plan_model(proposal.config, train::task_shape(proposal.config));
  std::map<std::string, double> terms;
  std::string qkv = "qkv";  // they may be computed together
  double blocks = 0;
  for (const models::LinearPlan& linear : plan.linears) {
    const std::string& structure = linear.structure.spec.text;
    const auto count = static_cast<double>(linear.count);
    const std::string size =
        fmt::format("{}x{}", linear.structure.d_in, linear.structure.d_out);
    if (linear.kind == "q" || linear.kind == "k" || linear.kind == "v") {
      qkv += fmt::format(" {} {}", structure, size);
      blocks = count;
    } else {
      terms[fmt::format("{} {} {}", linear.kind, structure, size)] += count;
    }
  }
  if (blocks > 0) {
    terms[qkv] = blocks;
  }
  terms["model " + proposal.trial.model] = 1;
  return terms;
}

// Takes from each row what it has of `direction`, of length 1.
void project_out(Eigen::MatrixXd& rows, const Eigen::RowVectorXd& direction) {
  rows -= (rows * direction.transpose()) * direction;
}

}  // namespace

LayerSums::LayerSums(const std::vector<const Proposal*>& models) {
  std::vector<std::map<std::string, double>> all;
  std::map<std::string, Index> places;
  for (const Proposal* model : models) {
    all.push_back(terms_of(*model));
    for (const auto& [term, count] : all.back()) {
      places.emplace(term, 0);
    }
  }
  Index next = 0;
  for (auto& [term, place] : places) {
    place = next++;
  }
  rows_ = Eigen::MatrixXd::Zero(static_cast<Index>(models.size()), next);
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const auto& [term, count] : all[i]) {
      rows_(static_cast<Index>(i), places.at(term)) = count;
    }
  }
}

std::vector<std::size_t> LayerSums::to_measure(std::size_t most) const {
  constexpr double kNone = 1e-6;  // of a row's length
  std::vector<std::size_t> chosen;
  std::vector<char> taken(static_cast<std::size_t>(rows_.rows()), 0);
  std::size_t wanted = std::min(most, taken.size());
  Eigen::MatrixXd left = rows_;
  const Eigen::VectorXd lengths = rows_.rowwise().norm();
  bool more = true;
  std::size_t rank = 0;
  while (chosen.size() < wanted && more) {
    more = false;
    Index best = 0;
    double longest = kNone;
    for (Index i = 0; i < left.rows(); ++i) {
      const double length = left.row(i).norm() / lengths[i];
      if (taken[static_cast<std::size_t>(i)] == 0 && length > longest) {
        longest = length;
        best = i;
      }
    }
    if (longest > kNone) {
      more = true;
      taken[static_cast<std::size_t>(best)] = 1;
      chosen.push_back(static_cast<std::size_t>(best));
      const Eigen::RowVectorXd direction = left.row(best).normalized();
      project_out(left, direction);
    } else if (rank == 0) {
      // Once more from the start, with those that are not taken.
      rank = chosen.size();
      wanted = std::min(wanted, rank + (rank + 1) / 2);
      left = rows_;
      more = true;
    }
  }
  std::ranges::sort(chosen);
  return chosen;
}

std::vector<double> LayerSums::complete(std::vector<double> measured) const {
  std::vector<Index> known;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    if (std::isfinite(measured[i])) {
      known.push_back(static_cast<Index>(i));
    }
  }
  if (known.empty()) {
    return measured;
  }
  const auto count = static_cast<Index>(known.size());
  // By relative error: each row over its number, which is then 1.
  Eigen::MatrixXd x(count, rows_.cols());
  for (Index i = 0; i < count; ++i) {
    const Index model = known[static_cast<std::size_t>(i)];
    x.row(i) = rows_.row(model) / measured[static_cast<std::size_t>(model)];
  }
  const Eigen::CompleteOrthogonalDecomposition<Eigen::MatrixXd> least(x);
  const Eigen::VectorXd terms = least.solve(Eigen::VectorXd::Ones(count));
  // A model is told by the known ones when it is a sum of them.
  Eigen::MatrixXd transposed(rows_.cols(), count);
  for (Index i = 0; i < count; ++i) {
    transposed.col(i) = rows_.row(known[static_cast<std::size_t>(i)]);
  }
  const Eigen::CompleteOrthogonalDecomposition<Eigen::MatrixXd> span(
      transposed);
  for (std::size_t i = 0; i < measured.size(); ++i) {
    if (std::isfinite(measured[i])) {
      continue;
    }
    const Eigen::VectorXd row = rows_.row(static_cast<Index>(i));
    constexpr double kFar = 1e-6;
    const double rest = (transposed * span.solve(row) - row).norm();
    const double value = row.dot(terms);
    if (rest <= kFar * row.norm() && value > 0) {
      measured[i] = value;
    }
  }
  return measured;
}

}  // namespace einforge::search
