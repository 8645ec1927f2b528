// DeformAttn, version 1 of domain idol_deploy, for OpenVINO's CPU plugin and its ONNX and IR readers. Inputs, output,
// attributes and types are those of ort_adapter.cpp.
//
// Needs one release of OpenVINO, because its C++ interface changes; no search path is set, because a process that adds
// the extension has loaded that release.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "call_checks.h"
#include "idol_deform_attn_cpu.h"

namespace {

using ov::element::Type;

int32_t type_of(const Type &type) {
  if (type == ov::element::f16) return IDOL_FLOAT16;
  if (type == ov::element::bf16) return IDOL_BFLOAT16;
  return type == ov::element::f32 ? IDOL_FLOAT32 : -1;
}

// Runs `range` in the arena that OpenVINO calls the operator in, on as many threads as it has.
void parallel_for(void *, int64_t count, idol_range range, void *work) {
  const int64_t parts = std::min<int64_t>(count, 64);  // as in ort_adapter.cpp
  tbb::parallel_for(int64_t{0}, parts, [=](int64_t i) { range(work, count * i / parts, count * (i + 1) / parts); });
}

class DeformAttn : public ov::op::Op {
 public:
  OPENVINO_OP("DeformAttn", "idol_deploy");

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, get_input_size() == 3, "the inputs are value, merged and reference");
    std::vector<Type> types;
    std::vector<ov::PartialShape> shapes;
    for (const ov::Input<ov::Node> &input : inputs()) {
      types.push_back(input.get_element_type());
      shapes.push_back(input.get_partial_shape());
    }
    const char *misfit = misfit_of(types, shapes);
    NODE_VALIDATION_CHECK(this, misfit == nullptr, misfit);
    const ov::PartialShape &value = shapes[0], &merged = shapes[1];
    ov::PartialShape out = ov::PartialShape::dynamic(3);
    if (value.rank().is_static()) out[0] = value[0], out[2] = value[2] * value[3];
    if (merged.rank().is_static()) out[1] = merged[1];
    set_output_type(0, types[0], out);
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &inputs) const override {
    auto clone = std::make_shared<DeformAttn>();
    clone->heads_ = heads_, clone->points_ = points_, clone->shapes_ = shapes_;
    clone->set_arguments(inputs);
    clone->validate_and_infer_types();
    return clone;
  }

  bool visit_attributes(ov::AttributeVisitor &visitor) override {
    visitor.on_attribute("heads", heads_);
    visitor.on_attribute("points", points_);
    visitor.on_attribute("shapes", shapes_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  // Called by several threads at once.
  bool evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const override {
    std::vector<Type> types;
    std::vector<ov::PartialShape> shapes;
    for (const ov::Tensor &input : inputs) {
      OPENVINO_ASSERT(input.is_continuous(), "DeformAttn: an input is not dense");
      types.push_back(input.get_element_type());
      shapes.push_back(input.get_shape());
    }
    const char *misfit = misfit_of(types, shapes);
    OPENVINO_ASSERT(misfit == nullptr, "DeformAttn: ", misfit);
    const ov::Shape value = inputs[0].get_shape(), merged = inputs[1].get_shape(), reference = inputs[2].get_shape();
    outputs[0].set_shape({value[0], merged[1], value[2] * value[3]});

    idol_fused call{};
    call.sizes.images = static_cast<int64_t>(value[0]), call.sizes.tokens = static_cast<int64_t>(value[1]);
    call.sizes.queries = static_cast<int64_t>(merged[1]), call.sizes.width = static_cast<int64_t>(value[3]);
    call.sizes.heads = heads_, call.sizes.levels = levels(), call.sizes.points = points_;
    call.sizes.shapes = shapes_.data();
    call.type = type_of(types[0]), call.merged_type = type_of(types[1]);
    call.value = inputs[0].data(), call.merged = inputs[1].data(), call.out = outputs[0].data();
    call.reference = inputs[2].data<float>();
    call.reference_images = static_cast<int64_t>(reference[0]);
    call.reference_width = static_cast<int64_t>(reference[3]);
    const idol_options options{IDOL_ISA_AUTO, 1, parallel_for, nullptr};
    const int32_t status = idol_deform_attn_fused(&call, &options);
    OPENVINO_ASSERT(status == IDOL_OK, "DeformAttn: ", idol::text_of(status));
    return true;
  }

 private:
  int64_t levels() const { return static_cast<int64_t>(shapes_.size() / 2); }

  // Returns the reason why inputs do not fit the attributes or each other; null if those that are known do.
  const char *misfit_of(const std::vector<Type> &types, const std::vector<ov::PartialShape> &shapes) const {
    if (shapes_.empty() || shapes_.size() % 2 != 0) return "shapes must be h, w per level";
    if (heads_ < 1 || points_ < 1 || !idol::product_fits({3, heads_, levels(), points_}))
      return "heads or points is out of range";
    const int32_t value_type = type_of(types[0]), merged_type = type_of(types[1]);
    const bool known = types[0].is_static() && types[1].is_static();
    if ((known && !idol::types_fit(value_type, merged_type)) || !types[2].compatible(ov::element::f32))
      return "this combination of types is not supported: value is f32, f16 or bf16; merged is f32, or f16 with f16 "
             "values; reference is f32";
    const ov::PartialShape &value = shapes[0], &merged = shapes[1], &reference = shapes[2];
    const ov::Dimension any, images = value.rank() == 4 ? value[0] : any, queries = merged.rank() == 3 ? merged[1] : any;
    if (!value.rank().compatible(4) || !merged.rank().compatible(3) || !reference.rank().compatible(4))
      return "value and reference have 4 dimensions, merged has 3";
    if (!value.compatible({any, any, heads_, any})) return "value's third dimension is not the attribute heads";
    if (!merged.compatible({images, any, 3 * heads_ * levels() * points_}))
      return "merged is not [N, Q, 3 * heads * levels * points]";
    if (!reference.compatible({any, queries, levels(), any})) return "reference is not [N or 1, Q, levels, 2 or 4]";
    return nullptr;
  }

  int64_t heads_ = 0, points_ = 0;
  std::vector<int64_t> shapes_;
};

}  // namespace

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<DeformAttn>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<DeformAttn>>("DeformAttn", "idol_deploy")}));
