#include "trt_attributes.h"

#include <cstring>

#include "call_checks.h"
#include "idol_deform_attn_cuda.h"

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr int32_t kMostValues = 2 * IDOL_CUDA_MOST_LEVELS;

// Parsers pass an attribute's integers with 32 or 64 bits; engines store them as read() made them.
template <class Integer> void append(const PluginField &field, std::vector<int64_t> *values) {
  const char *data = static_cast<const char *>(field.data);
  for (int32_t i = 0; i < field.length; ++i) {
    Integer value;
    std::memcpy(&value, data + static_cast<size_t>(i) * sizeof value, sizeof value);
    values->push_back(value);
  }
}

bool read_integers(const nvinfer1::PluginFieldCollection &given, const char *name, std::vector<int64_t> *values) {
  for (int32_t i = 0; i < given.nbFields; ++i) {
    const PluginField &field = given.fields[i];
    if (field.name == nullptr || std::strcmp(field.name, name) != 0) continue;
    if (field.data == nullptr || field.length < 1 || field.length > kMostValues) return false;
    if (field.type == PluginFieldType::kINT64)
      append<int64_t>(field, values);
    else if (field.type == PluginFieldType::kINT32)
      append<int32_t>(field, values);
    return !values->empty();
  }
  return false;
}

}  // namespace

std::shared_ptr<const idol::Attributes> idol::Attributes::read(const nvinfer1::PluginFieldCollection *given,
                                                               std::string *why) {
  std::vector<int64_t> heads, points;
  const std::shared_ptr<Attributes> attributes(new Attributes);
  if (given == nullptr || given->nbFields < 0 || (given->nbFields > 0 && given->fields == nullptr))
    *why = "there are no fields";
  else if (!read_integers(*given, "heads", &heads) || heads.size() != 1)
    *why = "the field heads must be one integer";
  else if (!read_integers(*given, "points", &points) || points.size() != 1)
    *why = "the field points must be one integer";
  else if (!read_integers(*given, "shapes", &attributes->shapes_) || attributes->shapes_.size() % 2 != 0)
    *why = "the field shapes must be h, w per level, of " + std::to_string(IDOL_CUDA_MOST_LEVELS) + " levels at most";
  if (!why->empty()) return nullptr;
  attributes->heads_ = heads[0], attributes->points_ = points[0];
  if (const char *misfit = attributes->complete()) {
    *why = misfit;
    return nullptr;
  }
  return attributes;
}

const char *idol::Attributes::complete() {
  for (size_t i = 0; i < shapes_.size(); i += 2) {
    const int64_t h = shapes_[i], w = shapes_[i + 1];
    if (h < 1 || w < 1 || h > kMostSide || w > kMostSide) return "a level of shapes is empty or too large";
    tokens_ += h * w;
  }
  constexpr int64_t most = INT32_MAX;
  const idol_sizes sizes{0, tokens_, 0, heads_, 1, levels(), points_, shapes()};
  if (heads_ > most || points_ > most || !sizes_fit(sizes)) return "heads, points or shapes are out of range";

  stored_ = {static_cast<int32_t>(heads_), static_cast<int32_t>(points_)};
  text_ = "heads=" + std::to_string(heads_) + " points=" + std::to_string(points_) + " shapes=";
  for (const int64_t side : shapes_) {
    stored_.push_back(static_cast<int32_t>(side));
    text_ += (text_.back() == '=' ? "" : ",") + std::to_string(side);
  }
  fields_[0] = {"heads", &stored_[0], PluginFieldType::kINT32, 1};
  fields_[1] = {"points", &stored_[1], PluginFieldType::kINT32, 1};
  fields_[2] = {"shapes", &stored_[2], PluginFieldType::kINT32, static_cast<int32_t>(shapes_.size())};
  collection_ = {3, fields_};
  return nullptr;
}
