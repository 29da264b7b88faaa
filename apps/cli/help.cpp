#include "cli/help.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <memory>
#include <span>

#include "cli/command.h"
#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/text.h"
#include "einforge/base/version.h"

namespace einforge::cli {
namespace {

constexpr std::size_t kWidth = 80;

// "einforge data prepare"
std::string full_name(const CLI::App* app) {
  const CLI::App* parent = app->get_parent();
  return parent == nullptr ? app->get_name()
                           : full_name(parent) + " " + app->get_name();
}

std::string capitals(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) {
    return static_cast<char>(std::toupper(c));
  });
  return text;
}

// "data prepare: ", what messages about it begin with.
std::string label(const CLI::App* app) {
  return app->get_parent() == nullptr
             ? ""
             : full_name(app).substr(sizeof("einforge")) + ": ";
}

bool shown(const CLI::Option* option) {
  return !option->get_group().empty();
}

bool positional(const CLI::Option* option) {
  return option->nonpositional() == false;
}

std::vector<const CLI::App*> commands_of(const CLI::App* app) {
  std::vector<const CLI::App*> commands;
  for (const CLI::App* command : app->get_subcommands({})) {
    if (!command->get_group().empty()) {  // not hidden
      commands.push_back(command);
    }
  }
  return commands;
}

// "CONFIG", "[STRUCTURE]", "INPUTS..."
std::string positional_name(const CLI::Option* option) {
  std::string name = capitals(option->get_name(true));
  if (option->get_expected_max() > 1) {
    name += "...";
  }
  return option->get_required() ? name : "[" + name + "]";
}

// "-h", "--help" in the order of a help page.
std::vector<std::string> names_of(const CLI::Option* option) {
  std::vector<std::string> names;
  for (const std::string& name : option->get_snames()) {
    names.push_back("-" + name);
  }
  for (const std::string& name : option->get_lnames()) {
    names.push_back("--" + name);
  }
  return names;
}

// What an option takes: " N", " KEY=VALUE", "[=FILE]", or "" for a flag.
std::string argument_of(const CLI::Option* option) {
  const std::string type = option->get_type_name();
  if (type.starts_with("[=")) {
    return type;
  }
  if (option->get_expected_max() == 0) {
    return "";
  }
  return " " + (type.empty() || type == "TEXT" ? "TEXT" : type);
}

std::string meaning_of(const CLI::Option* option) {
  std::string meaning = option->get_description();
  if (const std::string value = option->get_default_str(); !value.empty()) {
    meaning += fmt::format(" (default {})", value);
  }
  if (option->get_required() && option->nonpositional()) {
    meaning += " (required)";
  }
  return meaning;
}

// The words of `text` in lines no wider than the page, all but the first
// indented.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string result;
  std::size_t column = indent;
  for (const std::string& word : base::split(text, ' ')) {
    if (column > indent && column + 1 + word.size() > kWidth) {
      result += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      result += " ";
      ++column;
    }
    result += word;
    column += word.size();
  }
  return result;
}

std::string row(const std::string& name, const std::string& meaning) {
  constexpr std::size_t kIndent = 26;
  std::string line = "  " + name;
  if (line.size() + 2 > kIndent) {
    line += "\n" + std::string(kIndent, ' ');
  } else {
    line.resize(kIndent, ' ');
  }
  return line + wrapped(meaning, kIndent) + "\n";
}

std::string usage(const CLI::App* app) {
  std::string line = full_name(app);
  if (!commands_of(app).empty() && !takes_arguments(*app)) {
    line += " COMMAND";
  }
  for (const CLI::Option* option : app->get_options()) {
    if (positional(option)) {
      line += " " + positional_name(option);
    } else if (option->get_required()) {
      line += " " + names_of(option).back() + argument_of(option);
    }
  }
  return line + " [OPTIONS]";
}

std::string help_page(const CLI::App* app) {
  std::string page = fmt::format(
      "Usage: {}\n\n{}\n", usage(app), wrapped(app->get_description(), 0));
  std::string arguments;
  std::string options;
  for (const CLI::Option* option : app->get_options()) {
    if (positional(option)) {
      arguments += row(positional_name(option), meaning_of(option));
    } else if (shown(option)) {
      options +=
          row(fmt::format("{}", fmt::join(names_of(option), ", ")) +
                  argument_of(option),
              meaning_of(option));
    }
  }
  if (!arguments.empty()) {
    page += "\n" + arguments;
  }
  if (const auto commands = commands_of(app); !commands.empty()) {
    page += "\nCommands:\n";
    for (const CLI::App* command : commands) {
      page += row(command->get_name(), command->get_description());
    }
  }
  page += "\nOptions:\n" + options;
  if (!app->get_footer().empty()) {
    page += "\n" + base::trim(app->get_footer()) + "\n";
  }
  return page;
}

void for_each_command(
    const CLI::App* app, const std::function<void(const CLI::App*)>& visit) {
  visit(app);
  for (const CLI::App* command : commands_of(app)) {
    for_each_command(command, visit);
  }
}

// Text that roff prints as it is.
std::string roff(const std::string& text) {
  std::string result;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) {
      result += "\\&";
    }
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
    line_begins = c == '\n';
  }
  return result;
}

// einforge(1), from the same declarations as --help.
std::string man_page(const CLI::App& app) {
  std::string page = fmt::format(
      ".TH EINFORGE 1 \"\" \"einforge {}\"\n.SH NAME\neinforge \\- search, "
      "train and run structured linear layers\n.SH SYNOPSIS\n.nf\n",
      base::version());
  std::string body;
  for_each_command(&app, [&](const CLI::App* command) {
    const std::string text = help_page(command);
    if (commands_of(command).empty() || takes_arguments(*command)) {
      page += roff(usage(command)) + "\n";
    }
    body += fmt::format(
        ".SH {}\n.nf\n{}.fi\n",
        roff(capitals(full_name(command))),
        roff(text.substr(text.find('\n') + 2)));
  });
  return page + ".fi\n" + body;
}

// The words that may follow each command, a line per command.
std::string completion_words(const CLI::App& app, const char* format) {
  std::string lines;
  for_each_command(&app, [&](const CLI::App* command) {
    std::vector<std::string> words;
    for (const CLI::App* below : commands_of(command)) {
      words.push_back(below->get_name());
    }
    for (const CLI::Option* option : command->get_options()) {
      if (!positional(option) && shown(option)) {
        words.push_back(names_of(option).back());
      }
    }
    lines += fmt::format(
        fmt::runtime(format), full_name(command), fmt::join(words, " "));
  });
  return lines;
}

// One function for bash, which zsh runs too; the longest command that the line
// begins with says what may come next.
std::string completion(const CLI::App& app, const std::string& shell) {
  base::check(
      shell == "bash" || shell == "zsh" || shell == "fish",
      "--completion: expected bash, zsh or fish; got '{}'",
      shell);
  if (shell == "fish") {
    return "function __einforge_words\n"
           "  set -l line (commandline -opc | string join ' ')\n"
           "  switch $line\n" +
           completion_words(
               app,
               "    case '{0}' '{0} *'\n"
               "      set -g __einforge_next {1}\n") +
           "  end\n"
           "  string join \\n -- $__einforge_next\n"
           "end\n"
           "complete -c einforge -a '(__einforge_words)'\n";
  }
  return (shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n"
                         : "") +
         std::string(
             "_einforge() {\n"
             "  local words='' line=\"${COMP_WORDS[*]:0:COMP_CWORD} \"\n"
             "  line=\"einforge ${line#* }\"\n") +
         completion_words(
             app, "  case \"$line\" in '{0} '*) words='{1}' ;; esac\n") +
         "  COMPREPLY=($(compgen -W \"$words\" -- "
         "\"${COMP_WORDS[COMP_CWORD]}\"))\n"
         "}\n"
         "complete -o default -F _einforge einforge\n";
}

struct Options {
  std::vector<std::string> command;
  bool man = false;
  std::string completion;
};

}  // namespace

std::string HelpFormatter::make_help(
    const CLI::App* app, std::string, CLI::AppFormatMode) const {
  return help_page(app);
}

bool takes_arguments(const CLI::App& app) {
  return std::ranges::any_of(app.get_options(), positional);
}

const CLI::App& find_command(
    const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* found = &app;
  for (const std::string& word : words) {
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* command : commands_of(found)) {
      names.push_back(command->get_name());
      next = command->get_name() == word ? command : next;
    }
    base::check(
        !names.empty(), "{}expected no command; got '{}'", label(found), word);
    base::check(
        next != nullptr,
        "{}expected one of {}; got '{}'{}",
        label(found),
        fmt::join(names, ", "),
        word,
        base::suggestion(word, names));
    found = next;
  }
  return *found;
}

std::string message_of(const CLI::ParseError& error, const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().back();
  }
  const std::string name = label(command);
  const std::vector<std::string> extra = command->remaining(true);
  const auto unknown = [&](const std::string& word) {
    std::vector<std::string> known;
    for (const CLI::Option* option : command->get_options()) {
      if (!positional(option)) {
        known.push_back(names_of(option).back());
      }
    }
    return fmt::format(
        "{}unknown option '{}'{}",
        name,
        word,
        base::suggestion(word.substr(0, word.find('=')), known));
  };
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::string word = extra.empty() ? "" : extra.front();
    return word.starts_with("-")
               ? unknown(word)
               : fmt::format("{}one argument too many: '{}'", name, word);
  }
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    // What is missing may be what was misspelt.
    if (!extra.empty() && extra.front().starts_with("-")) {
      return unknown(extra.front());
    }
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_required() && option->empty()) {
        return fmt::format(
            "{}expected {}; got none",
            name,
            positional(option) ? positional_name(option)
                               : names_of(option).back() + argument_of(option));
      }
    }
    return fmt::format("{}expected a command; got none", name);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    // "--out: At Most 1 required but received 2"
    const std::string what = error.what();
    const std::string option = what.substr(0, what.find(':'));
    if (what.find("At Most 1 ") != std::string::npos) {
      const std::string times = what.substr(what.rfind(' ') + 1);
      return fmt::format(
          "{}{} was given {}",
          name,
          option,
          times == "2" ? "twice" : times + " times");
    }
    return fmt::format("{}{} needs a value", name, option);
  }
  return name + error.what();
}

void add_help(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "help", "Print the help of a command, the manual page or a completion");
  command->add_option(
      "command", options->command, "a command: train, data prepare, ...");
  command->add_flag("--man", options->man, "the manual page einforge(1)");
  command
      ->add_option(
          "--completion", options->completion, "completion for a shell")
      ->type_name("bash|zsh|fish");
  command->footer(
      "Examples:\n"
      "  einforge help train\n"
      "  einforge help data prepare\n"
      "  einforge help --man | man -l -\n"
      "  source <(einforge help --completion bash)");
  command->callback([options, &app] {
    if (options->man) {
      base::print_text(man_page(app));
    } else if (!options->completion.empty()) {
      base::print_text(completion(app, options->completion));
    } else {
      base::print_text(help_page(&find_command(app, options->command)));
    }
  });
}

}  // namespace einforge::cli
