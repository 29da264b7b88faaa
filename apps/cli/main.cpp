#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "cli/command.h"
#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/base/version.h"

namespace {

// One line, whatever the message holds: Torch appends a backtrace.
void print_error(std::string message) {
  if (const auto end = message.find('\n'); end != std::string::npos) {
    message.resize(end);
  }
  fmt::print(stderr, "einforge: error: {}\n", message);
}

// CLI11 would only say that a subcommand is required.
void check_command(const CLI::App& app, std::span<char*> arguments) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (!arguments.empty() && command->get_name() == arguments[0]) {
      check_command(*command, arguments.subspan(1));
      return;
    }
    if (!command->get_group().empty()) {  // not hidden
      names.push_back(command->get_name());
    }
  }
  if (!names.empty() && !arguments.empty() && arguments[0][0] != '-') {
    throw einforge::base::InvalidInput(fmt::format(
        "{}: expected one of {}; got '{}'{}",
        app.get_name(),
        fmt::join(names, ", "),
        arguments[0],
        einforge::base::suggestion(arguments[0], names)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "einforge finds, trains and runs structured linear layers: the one with "
      "the lowest loss per FLOP and per second for a task and budget.");
  app.name("einforge");
  app.require_subcommand(1);
  app.set_version_flag("--version", einforge::base::version());
  app.get_formatter()->column_width(34);
  einforge::cli::add_bench(app);
  einforge::cli::add_data(app);
  einforge::cli::add_describe(app);
  einforge::cli::add_train(app);
  einforge::cli::add_generate(app);
  einforge::cli::add_search(app);
  einforge::cli::add_fit(app);
  einforge::cli::add_report(app);
  einforge::cli::add_config(app);
  try {
    check_command(
        app, std::span(argv, static_cast<std::size_t>(argc)).subspan(1));
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::RuntimeError& done) {  // a command's own exit code
    return done.get_exit_code();
  } catch (const CLI::ParseError& error) {
    print_error(fmt::format("{} (see --help)", error.what()));
    return 2;
  } catch (const std::invalid_argument& error) {
    print_error(error.what());
    return 2;
  } catch (const std::exception& error) {
    print_error(error.what());
    return 1;
  }
  return 0;
}
