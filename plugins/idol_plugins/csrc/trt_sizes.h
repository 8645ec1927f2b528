// TensorRT's arithmetic of shapes, the part that a plugin uses.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>

namespace idol {

using Expression = nvinfer1::IDimensionExpr;
using Operation = nvinfer1::DimensionOperation;

// A size of a shape, known when the network is built or only when it runs; the harness has both values.
class Size final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  Size(int64_t value, bool constant) : value_(value), constant_(constant) { mImpl = this; }
  ~Size() noexcept override = default;
  int64_t value() const { return value_; }
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return constant_ ? value_ : std::numeric_limits<int64_t>::min(); }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
  bool constant_;
};

class Sizes final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  Sizes() { mImpl = this; }
  ~Sizes() noexcept override = default;

  const Expression *add(int64_t value, bool constant) { return &sizes_.emplace_back(value, constant); }
  const Expression *constant(int64_t value) override { return add(value, true); }
  const Expression *operation(Operation op, const Expression &a, const Expression &b) override;
  const Expression *declareSizeTensor(int32_t, const Expression &, const Expression &) override { return nullptr; }

 private:
  std::deque<Size> sizes_;
};

inline const Expression *Sizes::operation(Operation op, const Expression &first, const Expression &second) {
  const int64_t a = static_cast<const Size &>(first).value(), b = static_cast<const Size &>(second).value();
  const bool constant = first.isConstant() && second.isConstant();
  switch (op) {
    case Operation::kSUM:
      return add(a + b, constant);
    case Operation::kPROD:
      return add(a * b, constant);
    case Operation::kMAX:
      return add(std::max(a, b), constant);
    case Operation::kMIN:
      return add(std::min(a, b), constant);
    case Operation::kSUB:
      return add(a - b, constant);
    case Operation::kEQUAL:
      return add(a == b, constant);
    case Operation::kLESS:
      return add(a < b, constant);
    case Operation::kFLOOR_DIV:
      return b == 0 ? nullptr : add(a / b - (a % b != 0 && (a < 0) != (b < 0)), constant);
    case Operation::kCEIL_DIV:
      return b == 0 ? nullptr : add(a / b + (a % b != 0 && (a < 0) == (b < 0)), constant);
  }
  return nullptr;
}

}  // namespace idol
