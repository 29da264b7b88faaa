#pragma once

namespace einforge::base {

// A socket that listens at a TCP port of 127.0.0.1 that was free. While it is
// open no other program gets the port, and those that connect wait until
// somebody answers. Child processes do not inherit it.
class Listener {
 public:
  // Throws IoError.
  Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  int port() const { return port_; }
  // The socket's descriptor.
  int get() const { return socket_; }
  // The same, which is the caller's to close from now on.
  int release();

 private:
  int socket_;
  int port_ = 0;
};

}  // namespace einforge::base
