// DeformAttn, version "1" of namespace idol_deploy, for TensorRT 10 and 11: the operator of ort_adapter.cpp.
//
//   inputs   value [N, S, M, D] T, merged [N, Q, M*L*P*3] U, reference [N or 1, Q, L, 2 or 4] float
//   output   [N, Q, M*D] T
//   fields   heads = M, points = P, shapes = h and w of each level
//   types    (T, U): (float, float), (half, half), (half, float), (bfloat16, float), all linear
#pragma once

#include <NvInferRuntime.h>

#include <memory>

#include "trt_attributes.h"

namespace idol {

constexpr const char *kPluginName = "DeformAttn";
constexpr const char *kPluginVersion = "1";
constexpr const char *kPluginNamespace = "idol_deploy";

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(std::shared_ptr<const Attributes> attributes) noexcept : attributes_(std::move(attributes)) {}

  // IPluginV3
  nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3 *clone() noexcept override;

  // IPluginV3OneCore
  const char *getPluginName() const noexcept override { return kPluginName; }
  const char *getPluginVersion() const noexcept override { return kPluginVersion; }
  const char *getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // IPluginV3OneBuild; no workspace, no tactics
  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType *outputs, int32_t output_count, const nvinfer1::DataType *inputs,
                             int32_t input_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs *inputs, int32_t input_count,
                          const nvinfer1::DimsExprs *shape_inputs, int32_t shape_input_count,
                          nvinfer1::DimsExprs *outputs, int32_t output_count,
                          nvinfer1::IExprBuilder &builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc *tensors,
                                 int32_t input_count, int32_t output_count) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc *inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc *outputs, int32_t output_count) noexcept override;
  const char *getTimingCacheID() noexcept override { return attributes_->text(); }
  const char *getMetadataString() noexcept override { return attributes_->text(); }

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc *inputs, int32_t input_count,
                        const nvinfer1::PluginTensorDesc *outputs, int32_t output_count) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc *input_descriptions,
                  const nvinfer1::PluginTensorDesc *output_descriptions, const void *const *inputs,
                  void *const *outputs, void *workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
  const nvinfer1::PluginFieldCollection *getFieldsToSerialize() noexcept override { return attributes_->fields(); }

 private:
  std::shared_ptr<const Attributes> attributes_;
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::IPluginV3 *createPlugin(const char *name, const nvinfer1::PluginFieldCollection *fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection *getFieldNames() noexcept override;
  const char *getPluginName() const noexcept override { return kPluginName; }
  const char *getPluginVersion() const noexcept override { return kPluginVersion; }
  const char *getPluginNamespace() const noexcept override { return kPluginNamespace; }
};

}  // namespace idol
