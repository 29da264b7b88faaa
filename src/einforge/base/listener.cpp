#include "einforge/base/listener.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "einforge/base/error.h"

namespace einforge::base {

Listener::Listener()
    : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  const bool listens = socket_ >= 0 && ::bind(socket_, any, size) == 0 &&
                       ::listen(socket_, SOMAXCONN) == 0 &&
                       ::getsockname(socket_, any, &size) == 0;
  if (!listens) {
    const int error = errno;
    if (socket_ >= 0) {
      ::close(socket_);
    }
    throw_io_error("cannot listen on a port of 127.0.0.1", error);
  }
  port_ = ntohs(address.sin_port);
}

Listener::~Listener() {
  if (socket_ >= 0) {
    ::close(socket_);
  }
}

int Listener::release() {
  return std::exchange(socket_, -1);
}

}  // namespace einforge::base
