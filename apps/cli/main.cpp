#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>

#include "cli/command.h"
#include "einforge/base/error.h"

namespace {

// One line, whatever the message holds: Torch appends a backtrace.
void print_error(std::string message) {
  if (const auto end = message.find('\n'); end != std::string::npos) {
    message.resize(end);
  }
  fmt::print(stderr, "einforge: error: {}\n", message);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "einforge finds, trains and runs structured linear layers: the one with "
      "the lowest loss per FLOP and per second for a task and budget.");
  app.name("einforge");
  app.require_subcommand(1);
  app.set_version_flag("--version", EINFORGE_VERSION);
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
