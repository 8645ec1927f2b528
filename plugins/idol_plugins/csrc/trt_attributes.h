// What a node says of itself: heads, points and the levels' shapes, as TensorRT hands them over and keeps them.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace idol {

// Never changes once it is made, so that all clones of a plugin share one.
class Attributes {
 public:
  // Of the fields `heads`, `points` and `shapes` (h, w per level), of 32 or 64 bits; others are left alone. Null, and
  // why, if they do not fit.
  static std::shared_ptr<const Attributes> read(const nvinfer1::PluginFieldCollection *given, std::string *why);

  Attributes(const Attributes &) = delete;
  Attributes &operator=(const Attributes &) = delete;

  int64_t heads() const { return heads_; }
  int64_t points() const { return points_; }
  int64_t levels() const { return static_cast<int64_t>(shapes_.size() / 2); }
  int64_t tokens() const { return tokens_; }
  const int64_t *shapes() const { return shapes_.data(); }
  const char *text() const { return text_.c_str(); }

  // What read() makes the same attributes of.
  const nvinfer1::PluginFieldCollection *fields() const { return &collection_; }

 private:
  Attributes() = default;
  const char *complete();  // null, or what does not fit

  int64_t heads_ = 0, points_ = 0, tokens_ = 0;
  std::vector<int64_t> shapes_;
  std::vector<int32_t> stored_;  // heads, points, shapes: 32 bits are known to every version
  std::string text_;
  nvinfer1::PluginField fields_[3];
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace idol
