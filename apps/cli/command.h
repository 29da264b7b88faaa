#pragma once

#include <CLI/CLI.hpp>

namespace einforge::cli {

// Each subcommand lives in a file of its own: it declares its options on a
// subcommand of `app` (options.h) and sets a callback that parses, calls and
// prints (base/console.h). Errors are thrown; main() turns them into one line
// and an exit code.
void add_bench(CLI::App& app);
void add_kernels(CLI::App& app);
void add_check(CLI::App& app);
void add_data(CLI::App& app);
void add_describe(CLI::App& app);
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_export(CLI::App& app);
void add_convert(CLI::App& app);
void add_search(CLI::App& app);
void add_store(CLI::App& app);
void add_fit(CLI::App& app);
void add_report(CLI::App& app);
void add_config(CLI::App& app);
void add_help(CLI::App& app);

}  // namespace einforge::cli
