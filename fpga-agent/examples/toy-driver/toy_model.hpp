// A tiny transformer with weights from a seed, and its pool of KV blocks: what stands for the device.
//
// Every number of a token's row is summed up in one order that depends on its position alone, so logits are the
// same to the bit however a prompt is cut and whatever shares its step (P6).
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace toy {

constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kLayers = 3;
constexpr uint32_t kHeads = 2;
constexpr uint32_t kKvHeads = 1;
constexpr uint32_t kHeadDim = 4;
constexpr uint32_t kWidth = kHeads * kHeadDim;
constexpr uint32_t kVocabulary = 97;
constexpr uint32_t kContextTokensMax = 2048;
// [K|V][kv head][token][head dim]
constexpr uint32_t kBlockFloats = 2 * kKvHeads * kBlockTokens * kHeadDim;
constexpr uint32_t kBlockBytes = kBlockFloats * sizeof(float);
// [kv head][min|max][head dim]
constexpr uint32_t kBoundsFloats = kKvHeads * 2 * kHeadDim;
constexpr uint32_t kBoundsBytes = kBoundsFloats * sizeof(float);

using Row = std::array<float, kWidth>;
using Bounds = std::array<float, kBoundsFloats>;

class Matrix {
 public:
  Matrix(uint32_t rows, uint32_t columns, uint32_t seed) : columns_(columns), weights_(rows * columns) {
    for (float& weight : weights_) {
      seed = seed * 1664525u + 1013904223u;
      weight = (static_cast<float>(seed >> 8) / (1u << 24) - 0.5f) * 0.9f;
    }
  }

  // Row `row` times a vector of `columns` numbers.
  float times(uint32_t row, const float* vector) const {
    float sum = 0;
    for (uint32_t i = 0; i < columns_; ++i) sum += weights_[row * columns_ + i] * vector[i];
    return sum;
  }

  float at(uint32_t row, uint32_t column) const { return weights_[row * columns_ + column]; }

 private:
  uint32_t columns_;
  std::vector<float> weights_;
};

// One layer's share of the pool.
class LayerPool {
 public:
  explicit LayerPool(uint32_t blocks) : floats_(size_t{blocks} * kBlockFloats), bounds_(blocks) {}

  const float* block(uint32_t id) const { return &floats_[size_t{id} * kBlockFloats]; }

  // Bounds that stood no longer do.
  float* write(uint32_t id) {
    bounds_[id].reset();
    return &floats_[size_t{id} * kBlockFloats];
  }

  // Of each channel of the keys the smallest and the largest, unless another device's were given.
  const Bounds& bounds(uint32_t id) {
    if (!bounds_[id]) {
      Bounds made;
      for (uint32_t head = 0; head < kKvHeads; ++head) {
        for (uint32_t d = 0; d < kHeadDim; ++d) {
          float low = std::numeric_limits<float>::infinity(), high = -low;
          for (uint32_t token = 0; token < kBlockTokens; ++token) {
            float key = block(id)[(head * kBlockTokens + token) * kHeadDim + d];
            low = std::min(low, key);
            high = std::max(high, key);
          }
          made[head * 2 * kHeadDim + d] = low;
          made[(head * 2 + 1) * kHeadDim + d] = high;
        }
      }
      bounds_[id] = made;
    }
    return *bounds_[id];
  }

  void set_bounds(uint32_t id, const Bounds& given) { bounds_[id] = given; }
  const std::optional<Bounds>& standing(uint32_t id) const { return bounds_[id]; }

 private:
  std::vector<float> floats_;
  std::vector<std::optional<Bounds>> bounds_;
};

struct Sequence {
  std::vector<uint32_t> blocks;
  std::vector<uint32_t> tokens;
  uint32_t start = 0;
  bool want_logits = false;
};

struct Counters {
  uint64_t steps = 0, matrix_calls = 0, attention_calls = 0, rows = 0;
};

class Model {
 public:
  explicit Model(uint32_t kv_blocks_max)
      : blocks_(kv_blocks_max), pools_(kLayers, LayerPool(kv_blocks_max)), embedding_(kVocabulary, kWidth, 1) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      query_.emplace_back(kWidth, kWidth, 10 + layer);
      key_.emplace_back(kKvHeads * kHeadDim, kWidth, 20 + layer);
      value_.emplace_back(kKvHeads * kHeadDim, kWidth, 30 + layer);
    }
  }

  uint32_t blocks() const { return blocks_; }
  LayerPool& pool(uint32_t layer) { return pools_[layer]; }
  const Counters& counters() const { return counters_; }

  // Runs a batch layer by layer. `after_layer` hears of each once its K/V are in the blocks, and ends the step by
  // giving false; nothing is returned then.
  std::optional<std::vector<float>> step(const std::vector<Sequence>& batch,
                                         const std::function<bool(uint32_t)>& after_layer) {
    std::vector<std::vector<Row>> rows;
    for (const Sequence& sequence : batch) {
      rows.emplace_back();
      for (uint32_t token : sequence.tokens) {
        Row row;
        for (uint32_t i = 0; i < kWidth; ++i) row[i] = embedding_.at(token % kVocabulary, i);
        rows.back().push_back(row);
      }
    }
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      // On a real device the rows of all sequences are one call: a matrix is read once a step.
      counters_.matrix_calls += 1;
      for (size_t i = 0; i < batch.size(); ++i) store(layer, batch[i], rows[i]);
      for (size_t i = 0; i < batch.size(); ++i) attend(layer, batch[i], rows[i]);
      if (!after_layer(layer)) return std::nullopt;
    }
    counters_.matrix_calls += 1;
    counters_.steps += 1;
    std::vector<float> logits;
    for (size_t i = 0; i < batch.size(); ++i) {
      counters_.rows += rows[i].size();
      if (!batch[i].want_logits) continue;
      for (uint32_t token = 0; token < kVocabulary; ++token)
        logits.push_back(4 * embedding_.times(token, rows[i].back().data()));
    }
    return logits;
  }

 private:
  void store(uint32_t layer, const Sequence& sequence, const std::vector<Row>& rows) {
    for (uint32_t i = 0; i < rows.size(); ++i) {
      uint32_t position = sequence.start + i;
      float* block = pools_[layer].write(sequence.blocks[position / kBlockTokens]);
      for (uint32_t head = 0; head < kKvHeads; ++head) {
        float* key = block + (head * kBlockTokens + position % kBlockTokens) * kHeadDim;
        float* value = key + kKvHeads * kBlockTokens * kHeadDim;
        for (uint32_t d = 0; d < kHeadDim; ++d) {
          key[d] = key_[layer].times(head * kHeadDim + d, rows[i].data());
          value[d] = value_[layer].times(head * kHeadDim + d, rows[i].data());
        }
        rotate(key, position);
      }
    }
  }

  void attend(uint32_t layer, const Sequence& sequence, std::vector<Row>& rows) {
    counters_.attention_calls += 1;
    for (uint32_t i = 0; i < rows.size(); ++i) {
      Row attended{};
      for (uint32_t head = 0; head < kHeads; ++head) {
        float query[kHeadDim];
        for (uint32_t d = 0; d < kHeadDim; ++d) query[d] = query_[layer].times(head * kHeadDim + d, rows[i].data());
        rotate(query, sequence.start + i);
        attend_head(layer, sequence, head / (kHeads / kKvHeads), query, sequence.start + i, &attended[head * kHeadDim]);
      }
      for (uint32_t d = 0; d < kWidth; ++d) rows[i][d] = std::tanh(rows[i][d] + attended[d]);
    }
  }

  // Softmax-weighted values of positions 0 to `last`.
  void attend_head(uint32_t layer, const Sequence& sequence, uint32_t kv_head, const float* query, uint32_t last,
                   float* output) const {
    std::vector<float> scores(last + 1);
    float most = -std::numeric_limits<float>::infinity(), sum = 0;
    for (uint32_t position = 0; position <= last; ++position) {
      const float* key = entry(layer, sequence, kv_head, position);
      for (uint32_t d = 0; d < kHeadDim; ++d) scores[position] += query[d] * key[d];
      scores[position] /= std::sqrt(static_cast<float>(kHeadDim));
      most = std::max(most, scores[position]);
    }
    for (float& score : scores) sum += score = std::exp(score - most);
    for (uint32_t position = 0; position <= last; ++position) {
      const float* value = entry(layer, sequence, kv_head, position) + kKvHeads * kBlockTokens * kHeadDim;
      for (uint32_t d = 0; d < kHeadDim; ++d) output[d] += scores[position] / sum * value[d];
    }
  }

  const float* entry(uint32_t layer, const Sequence& sequence, uint32_t kv_head, uint32_t position) const {
    const float* block = pools_[layer].block(sequence.blocks[position / kBlockTokens]);
    return block + (kv_head * kBlockTokens + position % kBlockTokens) * kHeadDim;
  }

  // Rotary embedding of one head: keys are in the blocks after it.
  static void rotate(float* head, uint32_t position) {
    for (uint32_t pair = 0; pair < kHeadDim / 2; ++pair) {
      float angle = static_cast<float>(position) / std::pow(100.0f, 2.0f * pair / kHeadDim);
      float real = head[pair], imaginary = head[pair + kHeadDim / 2];
      head[pair] = real * std::cos(angle) - imaginary * std::sin(angle);
      head[pair + kHeadDim / 2] = imaginary * std::cos(angle) + real * std::sin(angle);
    }
  }

  uint32_t blocks_;
  std::vector<LayerPool> pools_;
  Matrix embedding_;
  std::vector<Matrix> query_, key_, value_;
  Counters counters_;
};

}  // namespace toy
