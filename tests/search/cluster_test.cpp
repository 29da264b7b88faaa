// Searches of several machines over one PostgreSQL server: processes that run
// the search, with folders of their own and workers that train nothing: this
// program again. EINFORGE_CLUSTER_KILLS and EINFORGE_CLUSTER_TRIALS make it
// longer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <thread>

#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/random.h"
#include "einforge/search/folder.h"
#include "einforge/search/lease.h"
#include "einforge/search/process.h"
#include "einforge/search/runner.h"
#include "tests/search/testing.h"
#include "tests/store/postgres_server.h"

namespace einforge::search {
namespace {

namespace fs = std::filesystem;
using store::Status;
using store::Trial;
using store::testing::PostgresServer;
using Clock = std::chrono::steady_clock;

constexpr const char* kWorker = "EINFORGE_CLUSTER_WORKER";
constexpr int kSteps = 12;

// What a trial's loss at a step is, whoever trains it.
double loss_of(const std::string& id, std::int64_t step) {
  return 1 + static_cast<double>(base::hash64(id, step) >> 40) / (1 << 24);
}

void say(const base::Json& event) {
  std::printf("%s\n", event.dump().c_str());
  std::fflush(stdout);
}

// Every point and the trial itself carry the number of the claim they are of.
void train(
    store::Store& store, const SearchConfig& config, const std::string& id) {
  std::optional<Trial> trial =
      store.claim(id, process_name(::getpid()), config.lease);
  if (!trial) {
    say({{"event", "refused"}, {"trial", id}});
    return;
  }
  const Lease lease(store, *trial, config.lease);
  say({{"event", "start"}, {"trial", id}, {"target", kSteps}});
  const auto claim = static_cast<double>(trial->fence);
  for (std::int64_t step = 1; step <= kSteps && !lease.lost(); ++step) {
    store::CurvePoint point;
    point.step = step;
    point.seconds = claim;
    point.val_loss = loss_of(id, step);
    store.append_curve(*trial, std::span(&point, 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(8));
  }
  if (!lease.lost()) {
    trial->status = Status::kDone;
    trial->rung = 1;
    trial->final_loss = loss_of(id, kSteps);
    trial->seconds = claim;
    store.update(*trial);
  }
  say({{"event", "end"}, {"trial", id}});
}

int run_fake_worker(const fs::path& directory) {
  SearchConfig config;
  base::update_from_json(
      config, base::read_config_file(Folder{directory}.config()));
  store::Store store = store::Store::open(folder_of(config).store());
  say({{"event", "idle"}});
  char line[100];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    std::string id = std::string(line).substr(6);
    id.pop_back();
    train(store, config, id);
    say({{"event", "idle"}});
  }
  return 0;
}

[[maybe_unused]] const bool is_worker = [] {
  if (std::getenv(kWorker) == nullptr) {
    return false;
  }
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string program;
  std::string folder;
  std::getline(file, program, '\0');
  std::getline(file, folder, '\0');
  int code = 1;
  try {
    code = run_fake_worker(folder);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker: %s\n", error.what());
  }
  std::_Exit(code);
}();

// A socket that passes on to the server's, from a process of its own. SIGUSR1
// drops all connections.
class Proxy {
 public:
  Proxy(const fs::path& here, const fs::path& server) {
    const int listener = open_socket(here, ::bind);
    ::listen(listener, 100);
    ::chmod(here.c_str(), 0777);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::signal(SIGUSR1, [](int) { drop_ = 1; });
      ::signal(SIGPIPE, SIG_IGN);
      pass_on(listener, server);
    }
    ::close(listener);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  ~Proxy() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void drop_connections() { ::kill(pid_, SIGUSR1); }

 private:
  template <typename Call>
  static int open_socket(const fs::path& path, const Call& call) {
    const int file = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    if (call(
            file,
            reinterpret_cast<const sockaddr*>(&address),
            sizeof address) != 0) {
      ::close(file);
      return -1;
    }
    return file;
  }

  [[noreturn]] static void pass_on(int listener, const fs::path& server) {
    std::map<int, int> other;  // of each file of a pair
    const auto close_pair = [&](int file) {
      const int peer = other.at(file);
      ::close(file);
      ::close(peer);
      other.erase(file);
      other.erase(peer);
    };
    for (;;) {
      std::vector<pollfd> files = {{listener, POLLIN, 0}};
      for (const auto& [file, peer] : other) {
        files.push_back({file, POLLIN, 0});
      }
      ::poll(files.data(), files.size(), 1000);
      if (std::exchange(drop_, 0) != 0) {
        while (!other.empty()) {
          close_pair(other.begin()->first);
        }
        continue;
      }
      if ((files[0].revents & POLLIN) != 0) {
        const int client = ::accept(listener, nullptr, nullptr);
        const int upstream = open_socket(server, ::connect);
        if (client >= 0 && upstream >= 0) {
          other[client] = upstream;
          other[upstream] = client;
        } else {
          ::close(client);
          ::close(upstream);
        }
      }
      for (std::size_t i = 1; i < files.size(); ++i) {
        if (files[i].revents == 0 || !other.contains(files[i].fd)) {
          continue;
        }
        char buffer[65536];
        const ssize_t count = ::read(files[i].fd, buffer, sizeof buffer);
        if (count <= 0 || ::send(
                              other.at(files[i].fd),
                              buffer,
                              static_cast<std::size_t>(count),
                              0) != count) {
          close_pair(files[i].fd);
        }
      }
    }
  }

  static inline volatile sig_atomic_t drop_ = 0;
  pid_t pid_ = -1;
};

// A process that runs the search in a folder of its own.
class Machine {
 public:
  Machine(SearchConfig config, std::vector<Proposal> proposals)
      : config_(std::move(config)), proposals_(std::move(proposals)) {
    start();
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  // Starts it again when it was killed or gave up, as Slurm does.
  bool finished() {
    int status = 0;
    if (pid_ > 0 && ::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return true;
      }
      start();
    }
    return pid_ <= 0;
  }

  // Itself and its workers.
  std::vector<pid_t> processes() const {
    std::vector<pid_t> result;
    if (pid_ <= 0) {
      return result;
    }
    result.push_back(pid_);
    std::ifstream children(
        fmt::format("/proc/{}/task/{}/children", pid_, pid_));
    for (pid_t child = 0; children >> child;) {
      result.push_back(child);
    }
    return result;
  }

 private:
  void start() {
    pid_ = ::fork();
    if (pid_ != 0) {
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setenv(kWorker, "1", 1);
    int code = 1;
    try {
      RunOptions options;
      options.worker_command = {"/proc/self/exe"};
      options.quiet = true;
      options.patience = 20;
      const RunResult result = run(config_, proposals_, options);
      code = result.done == result.total ? 0 : 2;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "machine: %s\n", error.what());
    }
    ::_exit(code);
  }

  SearchConfig config_;
  std::vector<Proposal> proposals_;
  pid_t pid_ = -1;
};

TEST(ClusterTest, SurvivesKillsStopsAndLostConnections) {
  std::string why;
  PostgresServer* const server = PostgresServer::get(why);
  if (server == nullptr) {
    GTEST_SKIP() << why;
  }
  const int kills = std::stoi(testing::setting("EINFORGE_CLUSTER_KILLS", "25"));
  const int count =
      std::stoi(testing::setting("EINFORGE_CLUSTER_TRIALS", "60"));
  const testing::TemporaryFolder folder;
  Proxy proxy(folder / ".s.PGSQL.5432", server->socket());

  SearchConfig config = testing::mlp_config(folder / "a");
  config.store = server->uri("cluster", folder.path());
  config.structures = {"dense"};
  config.widths = {16};
  config.seeds.clear();
  for (int seed = 0; seed < count; ++seed) {
    config.seeds.push_back(static_cast<std::uint64_t>(seed));
  }
  config.workers = 4;
  config.lease = 1;
  config.attempts = 1'000'000;
  const std::vector<Proposal> proposals = propose(config);
  SearchConfig second = config;
  second.out = (folder / "b").string();
  Machine a(config, proposals);
  Machine b(second, proposals);

  base::Random random(7);
  int killed = 0;
  int stopped = 0;
  int cuts = 0;
  int restarts = 0;
  std::map<pid_t, Clock::time_point> asleep;
  const auto end = Clock::now() + std::chrono::minutes(10);
  for (;;) {
    const bool over_a = a.finished();
    const bool over_b = b.finished();
    if (over_a && over_b) {
      break;
    }
    ASSERT_LT(Clock::now(), end) << "the search does not end";
    std::this_thread::sleep_for(
        std::chrono::milliseconds(20 + random.below(60)));
    // Stopped ones wake after their lease is over.
    for (auto it = asleep.begin(); it != asleep.end();) {
      if (Clock::now() < it->second) {
        ++it;
        continue;
      }
      ::kill(it->first, SIGCONT);
      it = asleep.erase(it);
    }
    if (killed + stopped >= kills) {
      continue;
    }
    const std::vector<pid_t> victims =
        random.below(2) == 0 ? a.processes() : b.processes();
    if (victims.empty()) {
      continue;
    }
    // Workers more often than the search itself.
    const pid_t victim =
        victims[random.below(10) == 0 ? 0 : random.below(victims.size())];
    switch (random.below(8)) {
      case 0:
        proxy.drop_connections();
        ++cuts;
        break;
      case 1:
        if (random.below(6) == 0) {
          server->restart();
          ++restarts;
        }
        break;
      case 2:
      case 3:
        if (victim != victims[0] && !asleep.contains(victim)) {
          ::kill(victim, SIGSTOP);
          asleep[victim] = Clock::now() + std::chrono::milliseconds(1500);
          ++stopped;
        }
        break;
      default:
        ::kill(victim, SIGKILL);
        ++killed;
    }
  }
  std::printf(
      "%d kills, %d stops, %d cuts, %d restarts of the server\n",
      killed,
      stopped,
      cuts,
      restarts);

  // No trial is lost or there twice, and all of a trial is of its last claim.
  const store::Store store =
      store::Store::open_read_only(server->uri("cluster"));
  const std::vector<Trial> trials = store.trials();
  ASSERT_EQ(trials.size(), static_cast<std::size_t>(count));
  std::int64_t claims = 0;
  for (const Trial& trial : trials) {
    EXPECT_EQ(trial.status, Status::kDone) << trial.reason;
    EXPECT_EQ(trial.final_loss, loss_of(trial.id, kSteps));
    EXPECT_EQ(trial.seconds, static_cast<double>(trial.fence));
    claims += trial.fence;
    const auto curve = store.curve(trial.id);
    ASSERT_EQ(curve.size(), static_cast<std::size_t>(kSteps));
    for (std::size_t i = 0; i < curve.size(); ++i) {
      EXPECT_EQ(curve[i].step, static_cast<std::int64_t>(i) + 1);
      EXPECT_EQ(curve[i].val_loss, loss_of(trial.id, curve[i].step));
      EXPECT_EQ(curve[i].seconds, static_cast<double>(trial.fence));
    }
  }
  std::printf("%d trials, %ld claims\n", count, static_cast<long>(claims));
}

}  // namespace
}  // namespace einforge::search
