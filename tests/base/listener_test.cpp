#include "einforge/base/listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

namespace einforge::base {
namespace {

// What bind(2) or connect(2) says of a new socket and that port.
template <typename F>
int try_port(F call, int port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  const int result =
      call(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  ::close(socket);
  return result;
}

TEST(Listener, KeepsItsPort) {
  std::optional<Listener> listener(std::in_place);
  const int port = listener->port();
  EXPECT_NE(try_port(::bind, port), 0);
  EXPECT_EQ(try_port(::connect, port), 0);  // though nobody answers
  EXPECT_NE(Listener().port(), port);
  const int socket = listener->release();
  listener.reset();
  EXPECT_NE(try_port(::bind, port), 0);
  ::close(socket);
  EXPECT_EQ(try_port(::bind, port), 0);
  EXPECT_NE(try_port(::connect, port), 0);
}

}  // namespace
}  // namespace einforge::base
