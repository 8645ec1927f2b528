// The attributes of a node: heads, points and the levels' shapes, as TensorRT passes and stores them.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace idol {

// Immutable, so that all clones of a plugin share one instance.
class Attributes {
 public:
  // Reads the fields `heads`, `points` and `shapes` (h, w per level) of 32 or 64 bits and ignores others. Returns null
  // and the reason in `why` if they do not fit.
  static std::shared_ptr<const Attributes> read(const nvinfer1::PluginFieldCollection *given, std::string *why);

  Attributes(const Attributes &) = delete;
  Attributes &operator=(const Attributes &) = delete;

  int64_t heads() const { return heads_; }
  int64_t points() const { return points_; }
  int64_t levels() const { return static_cast<int64_t>(shapes_.size() / 2); }
  int64_t tokens() const { return tokens_; }
  const int64_t *shapes() const { return shapes_.data(); }
  const char *text() const { return text_.c_str(); }

  // The fields from which read() makes the same attributes.
  const nvinfer1::PluginFieldCollection *fields() const { return &collection_; }

 private:
  Attributes() = default;
  const char *complete();  // null, or the reason why they do not fit

  int64_t heads_ = 0, points_ = 0, tokens_ = 0;
  std::vector<int64_t> shapes_;
  std::vector<int32_t> stored_;  // heads, points, shapes; every version reads 32 bits
  std::string text_;
  nvinfer1::PluginField fields_[3];
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace idol
