#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cli/command.h"
#include "cli/help.h"
#include "cli/launch.h"
#include "cli/options.h"
#include "cli/spinning.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/process.h"
#include "einforge/base/text.h"
#include "einforge/base/version.h"
#include "einforge/distributed/peer_failed.h"

namespace {

namespace base = einforge::base;
namespace cli = einforge::cli;

int fail(const std::string& message, int code) {
  base::note("einforge: error: {}\n", base::printable(message));
  return code;
}

// The words before the first option name a command, as far as it has commands
// and takes no other words.
void check_command(
    const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App* command = &app;
  for (const std::string& word : arguments) {
    if (word.starts_with("-") || command->get_subcommands({}).empty()) {
      return;
    }
    const auto all = command->get_subcommands({});
    const auto found = std::ranges::find(all, word, &CLI::App::get_name);
    if (found == all.end() && cli::takes_arguments(*command)) {
      return;
    }
    // The hidden ones are found here alone.
    command =
        found != all.end() ? *found : &cli::find_command(*command, {word});
  }
}

int run(int argc, char** argv) {
  CLI::App app(
      "einforge finds, trains and runs structured linear layers: the one with "
      "the lowest loss per FLOP and per second for a task and budget.");
  app.name("einforge");
  app.require_subcommand(1);
  app.formatter(std::make_shared<cli::HelpFormatter>());
  app.set_help_flag("-h,--help", "print this help");
  app.set_version_flag("-V,--version", base::version(), "print the version");
  app.footer("`einforge help COMMAND` or `einforge COMMAND --help` says more.");
  cli::add_data(app);
#ifdef EINFORGE_TORCH
  cli::add_train(app);
  cli::add_generate(app);
  cli::add_export(app);
  cli::add_convert(app);
  cli::add_search(app);
  cli::add_check(app);
  cli::add_bench(app);
  cli::add_kernels(app);
#endif
  cli::add_report(app);
  cli::add_fit(app);
  cli::add_store(app);
  cli::add_describe(app);
  cli::add_config(app);
  cli::add_help(app);
  cli::refuse_empty(app);
  try {
    std::vector<std::string> arguments = cli::joined_arguments(argc, argv);
    check_command(app, arguments);
    std::ranges::reverse(arguments);  // as the parser takes them
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    base::print_text(app.help());
  } catch (const CLI::CallForVersion&) {
    base::print("{}\n", base::version());
  } catch (const CLI::RuntimeError& done) {  // a command's own exit code
    return done.get_exit_code();
  } catch (const CLI::ParseError& error) {
    return fail(cli::message_of(error, app) + " (see --help)", 2);
  } catch (const einforge::distributed::PeerFailed& error) {
    // Of what failed elsewhere one process speaks, or who started them all.
    const std::string message = error.what();
    return message.empty() || cli::is_launched() ? 1 : fail(message, 1);
  } catch (const std::exception& error) {
    return fail(base::message_of(error), base::exit_code_of(error));
  } catch (...) {
    return fail("internal error", 1);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  einforge::cli::limit_spinning(argv);
  base::prepare_process();
  const int code = run(argc, argv);
  const int error = base::output_error();
  if (error == 0 || code != 0) {
    return code;
  }
  // Who closes a pipe, as head does, has read what was wanted.
  return error == EPIPE ? 1
                        : fail(
                              "cannot write standard output: " +
                                  std::generic_category().message(error),
                              1);
}
