#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/base/temporary_directory.h"

namespace einforge::store::testing {

// A PostgreSQL server of its own on a socket, from Debian's package.
class PostgresServer {
 public:
  // The server of this program; none, with the reason, where there is no
  // package.
  static PostgresServer* get(std::string& why) {
    static PostgresServer server;
    why = server.why_;
    return why.empty() ? &server : nullptr;
  }

  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // With the search as its schema, over the server's socket or one in another
  // folder that passes on to it.
  std::string uri(const std::string& search) const {
    return uri(search, directory_.path());
  }
  static std::string uri(
      const std::string& search, const std::filesystem::path& folder) {
    return fmt::format(
        "postgresql:///postgres?host={}&user=tester#{}",
        folder.string(),
        search);
  }
  std::filesystem::path socket() const { return directory_ / ".s.PGSQL.5432"; }

  void restart() { control("restart -m fast"); }

 private:
  void start() {
    control(fmt::format(
        "start -o \"-c listen_addresses='' -c fsync=off "
        "-c max_connections=200 -c unix_socket_directories='{}'\"",
        directory_.path().string()));
  }

  PostgresServer() {
    namespace fs = std::filesystem;
    for (const char* folder :
         {"/usr/lib/postgresql/17/bin",
          "/usr/lib/postgresql/16/bin",
          "/usr/lib/postgresql/15/bin",
          "/usr/lib/postgresql/14/bin"}) {
      if (fs::exists(fs::path(folder) / "initdb")) {
        programs_ = folder;
        break;
      }
    }
    if (programs_.empty()) {
      why_ = "needs Debian's package postgresql";
      return;
    }
    // The server refuses root.
    if (::geteuid() == 0) {
      user_ = "runuser -u postgres -- ";
      shell(fmt::format("chown postgres '{}'", directory_.path().string()));
    }
    if (!shell(fmt::format(
            "{}{}/initdb -D '{}' -A trust -U tester --no-sync",
            user_,
            programs_,
            data()))) {
      why_ = "initdb fails here";
      return;
    }
    start();
  }

  ~PostgresServer() {
    if (why_.empty()) {
      control("stop -m immediate");
    }
  }

  std::string data() const { return (directory_ / "data").string(); }

  void control(const std::string& what) {
    if (!shell(fmt::format(
            "{}{}/pg_ctl -D '{}' -w -l '{}/log' {}",
            user_,
            programs_,
            data(),
            directory_.path().string(),
            what))) {
      why_ = "pg_ctl " + what + " fails here";
    }
  }

  static bool shell(const std::string& command) {
    // From a folder that any user may be in.
    return std::system(
               fmt::format("cd / && {} > /dev/null 2>&1", command).c_str()) ==
           0;
  }

  base::testing::TemporaryDirectory directory_;
  std::string programs_;
  std::string user_;
  std::string why_;
};

}  // namespace einforge::store::testing
