// Frames of the driver's protocol over a Unix socket (proto/kvasir/driver/v1/driver.proto): two lengths, a
// message, a payload. Everything here blocks but `readable`.
#pragma once
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kvasir/driver/v1/driver.pb.h"

namespace toy {

namespace wire = kvasir::driver::v1;
using Bytes = std::vector<uint8_t>;

constexpr uint32_t kMessageBytesMax = 4u << 20;
constexpr uint32_t kPayloadBytesMax = 64u << 20;

// The agent has left, or broke the protocol: its connection is over.
struct Disconnected : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Frame {
  wire::DriverRequest request;
  Bytes payload;
};

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection() { close(fd_); }
  Connection(const Connection&) = delete;

  // Whether a frame has begun to arrive.
  bool readable(int timeout_ms) const {
    pollfd waiting{fd_, POLLIN, 0};
    return poll(&waiting, 1, timeout_ms) > 0;
  }

  Frame read() const {
    uint32_t lengths[2];
    read_exactly(lengths, sizeof lengths);
    if (lengths[0] == 0 || lengths[0] > kMessageBytesMax || lengths[1] > kPayloadBytesMax)
      throw Disconnected("the agent sent a frame of impossible length");
    Bytes message(lengths[0]);
    read_exactly(message.data(), message.size());
    Frame frame;
    frame.payload.resize(lengths[1]);
    // A real driver reads a large payload straight into memory that its device can reach.
    read_exactly(frame.payload.data(), frame.payload.size());
    if (!frame.request.ParseFromArray(message.data(), static_cast<int>(message.size())))
      throw Disconnected("the agent sent bytes that are no DriverRequest");
    return frame;
  }

  // A whole frame at a time: the heart sends too.
  void send(const wire::DriverReply& reply, const void* payload = nullptr, size_t payload_bytes = 0) const {
    std::lock_guard<std::mutex> lock(sending_);
    std::string message = reply.SerializeAsString();
    uint32_t lengths[2] = {static_cast<uint32_t>(message.size()), static_cast<uint32_t>(payload_bytes)};
    message.insert(0, reinterpret_cast<const char*>(lengths), sizeof lengths);
    write_all(message.data(), message.size());
    write_all(payload, payload_bytes);
  }

 private:
  void read_exactly(void* target, size_t bytes) const {
    for (auto* at = static_cast<uint8_t*>(target); bytes > 0;) {
      ssize_t count = ::read(fd_, at, bytes);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw Disconnected("the agent has left");
      at += count;
      bytes -= static_cast<size_t>(count);
    }
  }

  void write_all(const void* source, size_t bytes) const {
    for (auto* at = static_cast<const uint8_t*>(source); bytes > 0;) {
      ssize_t count = ::send(fd_, at, bytes, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw Disconnected("the agent has left");
      at += count;
      bytes -= static_cast<size_t>(count);
    }
  }

  int fd_;
  mutable std::mutex sending_;
};

// Says every two seconds that the driver is alive, also while its one thread is busy (P5). It may not begin before
// Hello was answered (P2).
class Heart {
 public:
  explicit Heart(const Connection& connection) : thread_([this, &connection] { beat(connection); }) {}
  ~Heart() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  void beat(const Connection& connection) {
    wire::DriverReply alive;
    alive.mutable_alive();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::seconds(2), [this] { return stopped_; })) {
      try {
        connection.send(alive);
      } catch (const Disconnected&) {
        return;  // Whoever reads notices too.
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::thread thread_;
};

// Listens on a path; a file that is left over from an earlier life is replaced.
class Listener {
 public:
  explicit Listener(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) throw std::runtime_error("the socket's path is too long");
    std::strcpy(address.sun_path, path.c_str());
    unlink(path.c_str());
    if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(fd_, 1) != 0)
      throw std::runtime_error("cannot listen on " + path + ": " + std::strerror(errno));
  }

  int accept() const { return ::accept(fd_, nullptr, nullptr); }

 private:
  int fd_;
};

}  // namespace toy
