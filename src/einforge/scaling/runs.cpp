#include "einforge/scaling/runs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <tuple>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/text.h"

namespace einforge::scaling {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// The fields of one CSV line (RFC 4180, but no line breaks within quotes).
std::vector<std::string> split_fields(
    std::string_view line, const std::string& where) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  base::check(!quoted, "{}: expected a closing quote; got none", where);
  for (std::string& field : fields) {
    field = base::trim(field);
  }
  return fields;
}

// Which field holds what.
struct Columns {
  std::size_t structure, run, compute, loss;
  std::optional<std::size_t> seconds, tokens, model, learning_rate, parameters;
  std::size_t count;
};

Columns parse_header(
    const std::vector<std::string>& header, const std::string& where) {
  const auto find = [&](const char* name) -> std::optional<std::size_t> {
    const auto found = std::find(header.begin(), header.end(), name);
    if (found == header.end()) {
      return std::nullopt;
    }
    base::check(
        std::find(found + 1, header.end(), name) == header.end(),
        "{}: expected one column '{}'; got two",
        where,
        name);
    return static_cast<std::size_t>(found - header.begin());
  };
  const auto need = [&](const char* name) {
    const auto column = find(name);
    base::check(
        column.has_value(),
        "{}: expected the columns structure, run, compute and loss; got no "
        "'{}'{}",
        where,
        name,
        base::suggestion(name, header));
    return *column;
  };
  return {
      need("structure"),
      need("run"),
      need("compute"),
      need("loss"),
      find("seconds"),
      find("tokens"),
      find("model"),
      find("learning_rate"),
      find("parameters"),
      header.size()};
}

double parse_positive(
    const std::string& where, const char* column, const std::string& text) {
  const std::string what = fmt::format("{}: {}", where, column);
  const double value = base::parse_double(what, text);
  base::check(value > 0, "{}: expected a number above 0; got '{}'", what, text);
  return value;
}

double parse_optional(
    const std::string& where,
    const char* column,
    const std::vector<std::string>& fields,
    std::optional<std::size_t> index) {
  return !index || fields[*index].empty()
             ? kNan
             : parse_positive(where, column, fields[*index]);
}

// Rows of two runs under one name: ascending spans of compute, of three rows or
// more each, of which a later one starts at or below the first. A run that was
// resumed goes back, but not to its beginning, and rows in no order at all make
// no such spans.
class NameCheck {
 public:
  void add(double compute, std::size_t line) {
    if (rows_ > 0 && compute <= last_) {
      is_ordered_ = is_ordered_ && span_ >= kFewest;
      span_ = 0;
      if (again_ == 0 && compute <= first_) {
        again_ = line;
      }
    }
    first_ = rows_ == 0 ? compute : first_;
    last_ = compute;
    ++span_;
    ++rows_;
  }
  // The line where the second run begins; 0: there is none.
  std::size_t second_run() const {
    return is_ordered_ && span_ >= kFewest ? again_ : 0;
  }

 private:
  static constexpr std::size_t kFewest = 3;
  double first_ = 0;
  double last_ = 0;
  std::size_t rows_ = 0;
  std::size_t span_ = 0;
  std::size_t again_ = 0;
  bool is_ordered_ = true;
};

}  // namespace

std::string to_string(Metric metric) {
  switch (metric) {
    case Metric::kFlops:
      return "flops";
    case Metric::kSeconds:
      return "seconds";
    case Metric::kTokens:
      return "tokens";
  }
  return "unknown";
}

Metric parse_metric(std::string_view text) {
  for (const Metric metric :
       {Metric::kFlops, Metric::kSeconds, Metric::kTokens}) {
    if (text == to_string(metric)) {
      return metric;
    }
  }
  throw base::InvalidInput(
      fmt::format("metric: expected flops, seconds or tokens; got '{}'", text));
}

std::vector<Run> parse_csv(std::string_view text, const std::string& name) {
  std::vector<Run> runs;
  // structure, run, model, learning rate and parameters, as they are written
  using Key = std::array<std::string, 5>;
  std::map<Key, std::size_t> index;
  std::vector<NameCheck> names;
  std::optional<Columns> columns;
  if (text.starts_with("\xef\xbb\xbf")) {  // what spreadsheets put in front
    text.remove_prefix(3);
  }
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = base::trim(text.substr(begin, end - begin));
    begin = end + 1;
    const std::string where = fmt::format("{}:{}", name, ++line_number);
    if (line.empty() || line.front() == '#') {
      continue;
    }
    const std::vector<std::string> fields = split_fields(line, where);
    if (!columns) {
      columns = parse_header(fields, where);
      continue;
    }
    base::check(
        fields.size() == columns->count,
        "{}: expected {} fields; got {}",
        where,
        columns->count,
        fields.size());
    const std::string& structure = fields[columns->structure];
    const std::string& run_name = fields[columns->run];
    base::check(!structure.empty(), "{}: expected a structure; got ''", where);
    Point point;
    point.compute = parse_positive(where, "compute", fields[columns->compute]);
    point.loss = parse_positive(where, "loss", fields[columns->loss]);
    point.seconds = parse_optional(where, "seconds", fields, columns->seconds);
    point.tokens = parse_optional(where, "tokens", fields, columns->tokens);
    const auto text_of = [&](std::optional<std::size_t> column) {
      return column ? fields[*column] : std::string();
    };
    const auto [found, is_new] = index.try_emplace(
        {structure,
         run_name,
         text_of(columns->model),
         text_of(columns->learning_rate),
         text_of(columns->parameters)},
        runs.size());
    if (is_new) {
      Run run;
      run.structure = structure;
      run.name = run_name;
      run.model = text_of(columns->model);
      run.learning_rate = parse_optional(
          where, "learning_rate", fields, columns->learning_rate);
      run.parameters =
          parse_optional(where, "parameters", fields, columns->parameters);
      runs.push_back(std::move(run));
      names.emplace_back();
    }
    runs[found->second].points.push_back(point);
    names[found->second].add(point.compute, line_number);
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const std::size_t line = names[i].second_run();
    base::check(
        line == 0,
        "{}:{}: expected one run named '{}' of '{}'; got a second one, whose "
        "compute starts again (give each its own name, or a model column)",
        name,
        line,
        runs[i].name,
        runs[i].structure);
  }
  base::check(
      !runs.empty(),
      "{}: expected a header and rows of runs; got {}",
      name,
      columns ? "only a header" : "an empty file");
  return runs;
}

std::vector<Run> read_csv(const std::filesystem::path& path) {
  return parse_csv(base::read_input(path), path.string());
}

}  // namespace einforge::scaling
