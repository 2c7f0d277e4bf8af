// A driver that is as small as a driver can be: a thread that works, one that says so, a toy model, the kernel step
// and nothing that is optional. It passes every case of `kvasir driver check` that asks for no further kernel.
//
//     make && npx kvasir driver check --model toy -- fpga-agent/examples/toy-driver/toy-driver
//
// To make it drive a card: replace toy_model.hpp. docs/drivers.md says what each part has to do.
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "frames.hpp"
#include "toy_model.hpp"

namespace toy {
namespace {

constexpr char kModelName[] = "toy";
// Of a real model: SHA-256 over its files, as docs/drivers.md says. Equal digests mean equal models.
constexpr char kDigest[] = "70f1e5f2a1c94b3d8e6f7a0b1c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f";
constexpr uint32_t kRowsMax = 512;
constexpr uint32_t kBlocksMax = 1u << 20;

// What a call fails with; the code says what the agent must do (runtime/src/errors.ts).
struct Failed {
  const char* code;
  std::string message;
};

// One agent's connection, with all that it has loaded.
class Session {
 public:
  explicit Session(int fd) : connection_(fd) {}

  // Serves until the agent leaves, which throws Disconnected.
  [[noreturn]] void run() {
    for (;;) {
      // A step comes after what came before it; the others of its kind wait for their turn.
      if (!steps_.empty()) {
        Frame frame = std::move(steps_.front());
        steps_.pop_front();
        serve(frame, [this](const Frame& step) { run_step(step); });
      } else {
        take(connection_.read());
      }
    }
  }

 private:
  void take(Frame frame) {
    using Request = wire::DriverRequest;
    switch (frame.request.request_case()) {
      case Request::kStep:
        steps_.push_back(std::move(frame));
        break;
      case Request::kCancel:
        cancelled_.insert(frame.request.id());
        break;
      case Request::kAnswer:
        // Nothing asks here.
        break;
      default:
        serve(frame, [this](const Frame& call) { serve_call(call); });
    }
  }

  // P3: one reply a call, whatever happens.
  template <typename Work>
  void serve(const Frame& frame, Work work) {
    try {
      work(frame);
    } catch (const Failed& failed) {
      wire::DriverReply reply = reply_to(frame);
      reply.mutable_failure()->set_code(failed.code);
      reply.mutable_failure()->set_message(failed.message);
      connection_.send(reply);
    }
  }

  void serve_call(const Frame& frame) {
    using Request = wire::DriverRequest;
    switch (frame.request.request_case()) {
      case Request::kHello:
        return hello(frame);
      case Request::kPing:
        return done(frame);
      case Request::kInspect:
        return inspect(frame);
      case Request::kLoad:
        return load(frame);
      case Request::kUnload:
        model(frame);
        models_.erase(frame.request.model());
        return done(frame);
      case Request::kReadBlocks:
        return read_blocks(frame);
      case Request::kWriteBlocks:
        return write_blocks(frame);
      case Request::kCopyBlocks:
        return copy_blocks(frame);
      case Request::kReadBounds:
        return read_bounds(frame);
      case Request::kWriteBounds:
        return write_bounds(frame);
      case Request::kStats:
        return stats(frame);
      default:
        throw Failed{"unsupported", "The toy driver has no such kernel; it has step."};
    }
  }

  void hello(const Frame& frame) {
    if (frame.request.hello().protocol_version() != 1)
      throw Failed{"unsupported", "The toy driver speaks version 1 of the protocol; update it."};
    wire::DriverReply reply = reply_to(frame);
    auto* hello = reply.mutable_hello();
    hello->set_protocol_version(1);
    hello->set_name("toy");
    hello->set_device_model("toy, on the CPU");
    hello->set_rows_max(kRowsMax);
    hello->set_payload_bytes_max(kPayloadBytesMax);
    auto* step = hello->add_kernels();
    step->set_name("step");
    step->set_version(1);
    connection_.send(reply);
    if (!heart_) heart_.emplace(connection_);
  }

  void inspect(const Frame& frame) {
    check_model(frame.request.inspect().model(), frame.request.inspect().numerics());
    wire::DriverReply reply = reply_to(frame);
    auto* plan = reply.mutable_inspected();
    plan->set_name(kModelName);
    plan->set_digest(kDigest);
    plan->set_weight_bytes(kVocabulary * kWidth * sizeof(float));
    plan->set_pool_block_bytes(uint64_t{kLayers} * kBlockBytes);
    plan->set_context_tokens_max(kContextTokensMax);
    connection_.send(reply);
  }

  void load(const Frame& frame) {
    const auto& wish = frame.request.load();
    check_model(wish.model(), wish.numerics());
    if (wish.kv_blocks_max() > kBlocksMax)
      throw Failed{"overloaded", "The toy device has memory for " + std::to_string(kBlocksMax) + " blocks; ask for fewer."};
    uint32_t number = ++last_model_;
    models_[number] = std::make_shared<Model>(wish.kv_blocks_max());
    wire::DriverReply reply = reply_to(frame);
    auto* loaded = reply.mutable_loaded();
    loaded->set_model(number);
    loaded->set_name(kModelName);
    loaded->set_digest(kDigest);
    *loaded->mutable_numerics() = wish.numerics();
    loaded->set_context_tokens_max(kContextTokensMax);
    loaded->set_vocabulary_size(kVocabulary);
    loaded->set_layers(kLayers);
    loaded->set_heads(kHeads);
    loaded->set_kv_heads(kKvHeads);
    loaded->set_head_dim(kHeadDim);
    loaded->set_block_layer_bytes(kBlockBytes);
    loaded->set_pool_block_bytes(uint64_t{kLayers} * kBlockBytes);
    loaded->set_parameters(kVocabulary * kWidth);
    loaded->set_weight_bytes(kVocabulary * kWidth * sizeof(float));
    loaded->add_stop_tokens(0);
    connection_.send(reply);
  }

  static void check_model(const std::string& name, const wire::Numerics& numerics) {
    if (name != kModelName) throw Failed{"invalid_input", "The toy driver has no model " + name + "; it has toy."};
    if (numerics.weights() != wire::WEIGHT_FORMAT_F32 || numerics.pool() != wire::KV_FORMAT_F32 ||
        numerics.wire() != wire::KV_FORMAT_F32)
      throw Failed{"unsupported", "The toy driver computes in f32 alone; ask for profile exact."};
  }

  void run_step(const Frame& frame) {
    // It may be unloaded while it runs.
    const std::shared_ptr<Model> own_model = shared_model(frame);
    Model& own = *own_model;
    const auto& step = frame.request.step();
    std::vector<Sequence> batch;
    for (const auto& part : step.sequences()) {
      Sequence sequence;
      sequence.blocks.assign(part.blocks().begin(), part.blocks().end());
      sequence.tokens.assign(part.tokens().begin(), part.tokens().end());
      sequence.start = part.start();
      sequence.want_logits = part.want_logits();
      check_blocks(own, part.blocks());
      uint64_t end = uint64_t{sequence.start} + sequence.tokens.size();
      if (sequence.tokens.empty() || end > uint64_t{sequence.blocks.size()} * kBlockTokens)
        throw Failed{"invalid_input", "A sequence needs new tokens, and blocks for all of them."};
      batch.push_back(std::move(sequence));
    }
    auto began = std::chrono::steady_clock::now();
    auto logits = own.step(batch, [&](uint32_t layer) {
      if (step.report_layers()) {
        wire::DriverReply event = reply_to(frame);
        event.mutable_layer()->set_layer(layer);
        connection_.send(event);
      }
      // P4: what has come is served between the layers.
      while (connection_.readable(0)) take(connection_.read());
      return cancelled_.count(frame.request.id()) == 0 && models_.count(frame.request.model()) > 0;
    });
    // Those of steps that have ended already are not minded, nor kept.
    if (steps_.empty()) cancelled_.clear();
    auto elapsed = std::chrono::steady_clock::now() - began;
    wire::DriverReply reply = reply_to(frame);
    auto* result = reply.mutable_step();
    result->set_elapsed_us(static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count()));
    result->set_cancelled(!logits);
    if (logits) connection_.send(reply, logits->data(), logits->size() * sizeof(float));
    else connection_.send(reply);
  }

  void read_blocks(const Frame& frame) {
    const auto& wish = frame.request.read_blocks();
    LayerPool& pool = checked_layer(model(frame), wish);
    Bytes payload(wish.blocks_size() * kBlockBytes);
    for (int i = 0; i < wish.blocks_size(); ++i)
      std::memcpy(&payload[i * kBlockBytes], pool.block(wish.blocks(i)), kBlockBytes);
    done(frame, payload);
  }

  void write_blocks(const Frame& frame) {
    const auto& wish = frame.request.write_blocks();
    LayerPool& pool = checked_layer(model(frame), wish);
    check_bytes(frame, wish.blocks_size(), kBlockBytes);
    for (int i = 0; i < wish.blocks_size(); ++i)
      std::memcpy(pool.write(wish.blocks(i)), &frame.payload[i * kBlockBytes], kBlockBytes);
    done(frame);
  }

  void copy_blocks(const Frame& frame) {
    const auto& wish = frame.request.copy_blocks();
    Model& own = model(frame);
    check_blocks(own, wish.from());
    check_blocks(own, wish.to());
    if (wish.from_size() != wish.to_size())
      throw Failed{"invalid_input", "Copies need as many targets as sources."};
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      LayerPool& pool = own.pool(layer);
      // As if all were read first: the blocks may be copied in a circle.
      const LayerPool before = pool;
      for (int i = 0; i < wish.from_size(); ++i) {
        std::memcpy(pool.write(wish.to(i)), before.block(wish.from(i)), kBlockBytes);
        if (before.standing(wish.from(i))) pool.set_bounds(wish.to(i), *before.standing(wish.from(i)));
      }
    }
    done(frame);
  }

  void read_bounds(const Frame& frame) {
    const auto& wish = frame.request.read_bounds();
    LayerPool& pool = checked_layer(model(frame), wish);
    Bytes payload(wish.blocks_size() * kBoundsBytes);
    for (int i = 0; i < wish.blocks_size(); ++i)
      std::memcpy(&payload[i * kBoundsBytes], pool.bounds(wish.blocks(i)).data(), kBoundsBytes);
    done(frame, payload);
  }

  void write_bounds(const Frame& frame) {
    const auto& wish = frame.request.write_bounds();
    LayerPool& pool = checked_layer(model(frame), wish);
    check_bytes(frame, wish.blocks_size(), kBoundsBytes);
    for (int i = 0; i < wish.blocks_size(); ++i) {
      Bounds given;
      std::memcpy(given.data(), &frame.payload[i * kBoundsBytes], kBoundsBytes);
      pool.set_bounds(wish.blocks(i), given);
    }
    done(frame);
  }

  void stats(const Frame& frame) {
    const Counters& counters = model(frame).counters();
    wire::DriverReply reply = reply_to(frame);
    reply.mutable_stats()->set_steps(counters.steps);
    reply.mutable_stats()->set_matrix_calls(counters.matrix_calls);
    reply.mutable_stats()->set_attention_calls(counters.attention_calls);
    reply.mutable_stats()->set_rows(counters.rows);
    connection_.send(reply);
  }

  std::shared_ptr<Model> shared_model(const Frame& frame) {
    auto found = models_.find(frame.request.model());
    if (found == models_.end()) throw Failed{"not_found", "The model has been unloaded; load it again."};
    return found->second;
  }

  Model& model(const Frame& frame) { return *shared_model(frame); }

  static LayerPool& checked_layer(Model& own, const wire::LayerBlocks& wish) {
    if (wish.layer() >= kLayers) throw Failed{"invalid_input", "The model has no layer " + std::to_string(wish.layer()) + "."};
    check_blocks(own, wish.blocks());
    return own.pool(wish.layer());
  }

  template <typename Ids>
  static void check_blocks(const Model& own, const Ids& ids) {
    for (uint32_t id : ids)
      if (id >= own.blocks()) throw Failed{"invalid_input", "Block " + std::to_string(id) + " is outside the pool."};
  }

  static void check_bytes(const Frame& frame, int blocks, size_t each) {
    if (frame.payload.size() != blocks * each)
      throw Failed{"invalid_input", "The payload is not of the size of so many blocks."};
  }

  static wire::DriverReply reply_to(const Frame& frame) {
    wire::DriverReply reply;
    reply.set_id(frame.request.id());
    return reply;
  }

  void done(const Frame& frame, const Bytes& payload = {}) {
    wire::DriverReply reply = reply_to(frame);
    reply.mutable_done();
    connection_.send(reply, payload.data(), payload.size());
  }

  Connection connection_;
  std::map<uint32_t, std::shared_ptr<Model>> models_;
  std::deque<Frame> steps_;
  uint32_t last_model_ = 0;
  // Steps that were cancelled, running or waiting.
  std::set<uint64_t> cancelled_;
  // Ends before what it speaks through.
  std::optional<Heart> heart_;
};

}  // namespace
}  // namespace toy

int main(int argc, char** argv) {
  if (argc != 3 || std::string(argv[1]) != "--socket") {
    std::fprintf(stderr, "usage: toy-driver --socket PATH\n");
    return 2;
  }
  try {
    toy::Listener listener(argv[2]);
    // P1: one agent after another, each with a device that holds nothing of the one before.
    for (;;) {
      int fd = listener.accept();
      if (fd < 0) continue;
      try {
        toy::Session(fd).run();
      } catch (const toy::Disconnected& over) {
        std::fprintf(stderr, "toy-driver: %s\n", over.what());
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "toy-driver: %s\n", error.what());
    return 1;
  }
}
