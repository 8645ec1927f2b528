#include "trt_plugin.h"

#include <cstdint>
#include <exception>
#include <new>
#include <string>

#include "call_checks.h"
#include "idol_deform_attn_cuda.h"
#include "trt_log.h"

namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kInputs = 3, kOutputs = 1;
enum Tensor { kValue, kMerged, kReference, kOut };  // in TensorRT's order

// TensorRT stops a build or an execution if the status is not zero; the kernel's statuses are returned unchanged.
constexpr int32_t kRefused = -1;

int32_t refuse(const char *why) noexcept {
  idol::log(idol::Severity::kERROR, "%s", why);
  return kRefused;
}

bool are_ours(const void *inputs, int32_t input_count, const void *outputs, int32_t output_count) noexcept {
  return inputs != nullptr && outputs != nullptr && input_count == kInputs && output_count == kOutputs;
}

// Checks the types of a combination up to a position.
bool type_fits(int32_t position, DataType type, DataType value) noexcept {
  switch (position) {
    case kValue:
      return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
    case kMerged:
      return type == DataType::kFLOAT || (type == DataType::kHALF && value == DataType::kHALF);
    case kReference:
      return type == DataType::kFLOAT;
    default:
      return type == value;
  }
}

// Compares sizes; a size that is not known yet is negative.
bool agree(int64_t a, int64_t b) noexcept { return a < 0 || b < 0 || a == b; }

// Returns null, or the reason why the shapes do not fit.
const char *find_misfit(const Dims &value, const Dims &merged, const Dims &reference, const Dims &out,
                        const idol::Attributes &attributes) noexcept {
  if (value.nbDims != 4 || merged.nbDims != 3 || reference.nbDims != 4 || out.nbDims != 3)
    return "value and reference have 4 dimensions, merged and the output have 3";
  const int64_t samples = attributes.heads() * attributes.levels() * attributes.points();
  if (!agree(value.d[1], attributes.tokens())) return "value has not as many tokens as the levels of shapes have cells";
  if (!agree(value.d[2], attributes.heads())) return "value's third dimension is not heads";
  if (!agree(merged.d[0], value.d[0]) || !agree(merged.d[2], 3 * samples))
    return "merged is not [N, Q, 3 * heads * levels * points]";
  if ((reference.d[0] != 1 && !agree(reference.d[0], value.d[0])) || !agree(reference.d[1], merged.d[1]) ||
      !agree(reference.d[2], attributes.levels()) || (!agree(reference.d[3], 2) && reference.d[3] != 4))
    return "reference is not [N or 1, Q, levels, 2 or 4]";
  // Division instead of multiplication, because a product of probed sizes may overflow.
  const bool known = value.d[2] > 0 && value.d[3] >= 0 && out.d[2] >= 0;
  if (!agree(out.d[0], value.d[0]) || !agree(out.d[1], merged.d[1]) ||
      (known && (out.d[2] % value.d[2] != 0 || out.d[2] / value.d[2] != value.d[3])))
    return "the output is not [N, Q, heads * width]";
  return nullptr;
}

int32_t type_of(DataType type) noexcept {
  if (type == DataType::kHALF) return IDOL_FLOAT16;
  return type == DataType::kBF16 ? IDOL_BFLOAT16 : IDOL_FLOAT32;
}

// Makes a call without its pointers; returns null, or the reason why it does not fit.
const char *describe(const PluginTensorDesc *in, const PluginTensorDesc &out, const idol::Attributes &attributes,
                     idol_fused *call) noexcept {
  const PluginTensorDesc *tensors[] = {&in[kValue], &in[kMerged], &in[kReference], &out};
  for (int32_t position = 0; position < kInputs + kOutputs; ++position) {
    const PluginTensorDesc &tensor = *tensors[position];
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR || !type_fits(position, tensor.type, in[kValue].type))
      return "this combination of types or formats is not supported";
    for (int32_t i = 0; i < tensor.dims.nbDims && i < Dims::MAX_DIMS; ++i)
      if (tensor.dims.d[i] < 0) return "a size is negative";
  }
  const Dims &value = in[kValue].dims, &merged = in[kMerged].dims, &reference = in[kReference].dims;
  if (const char *misfit = find_misfit(value, merged, reference, out.dims, attributes)) return misfit;
  call->sizes = {value.d[0],           value.d[1],          merged.d[1],        attributes.heads(), value.d[3],
                 attributes.levels(), attributes.points(), attributes.shapes()};
  call->type = type_of(in[kValue].type), call->merged_type = type_of(in[kMerged].type);
  call->reference_images = reference.d[0], call->reference_width = reference.d[3];
  return idol::sizes_fit(call->sizes) ? nullptr : "a size is zero or too large";
}

// Builders probe with sizes of zero (NVIDIA/TensorRT#4260): there is nothing to compute, and no error.
bool has_no_elements(const Dims &out) noexcept {
  return out.nbDims == 3 && out.d[0] >= 0 && out.d[1] >= 0 && out.d[2] >= 0 && !(out.d[0] && out.d[1] && out.d[2]);
}

int32_t launch(const idol_fused &call, cudaStream_t stream) noexcept {
#ifdef IDOL_TRT_HOST
  (void)stream;
  return idol_deform_attn_fused(&call, nullptr);
#else
  return idol_deform_attn_cuda_fused(&call, stream);
#endif
}

bool is_aligned(const void *pointer) noexcept { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

namespace idol {

using namespace nvinfer1;  // NOLINT: every signature uses TensorRT's names

IPluginCapability *Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore *>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild *>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime *>(this);
  }
  return nullptr;
}

IPluginV3 *Plugin::clone() noexcept {
  auto *copy = new (std::nothrow) Plugin(attributes_);
  if (copy == nullptr) log(Severity::kERROR, "out of memory");
  return copy;
}

IPluginV3 *Plugin::attachToContext(IPluginResourceContext *) noexcept { return clone(); }

int32_t Plugin::getOutputDataTypes(DataType *outputs, int32_t output_count, const DataType *inputs,
                                   int32_t input_count) const noexcept {
  if (!are_ours(inputs, input_count, outputs, output_count)) return refuse("there are 3 inputs and 1 output");
  if (!type_fits(kValue, inputs[kValue], inputs[kValue])) return refuse("value must be float, half or bfloat16");
  outputs[0] = inputs[kValue];
  return 0;
}

int32_t Plugin::getOutputShapes(const DimsExprs *inputs, int32_t input_count, const DimsExprs *, int32_t,
                                DimsExprs *outputs, int32_t output_count, IExprBuilder &builder) noexcept {
  if (!are_ours(inputs, input_count, outputs, output_count)) return refuse("there are 3 inputs and 1 output");
  const DimsExprs &value = inputs[kValue], &merged = inputs[kMerged];
  if (value.nbDims != 4 || merged.nbDims != 3 || inputs[kReference].nbDims != 4)
    return refuse("value and reference have 4 dimensions, merged has 3");
  const IDimensionExpr *channels = builder.operation(DimensionOperation::kPROD, *value.d[2], *value.d[3]);
  if (channels == nullptr) return refuse("TensorRT cannot express heads * width");
  outputs[0].nbDims = 3;
  outputs[0].d[0] = value.d[0], outputs[0].d[1] = merged.d[1], outputs[0].d[2] = channels;
  return 0;
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc *tensors, int32_t input_count,
                                       int32_t output_count) noexcept {
  if (!are_ours(tensors, input_count, tensors, output_count) || position < 0 || position >= kInputs + kOutputs)
    return false;
  const PluginTensorDesc &tensor = tensors[position].desc;
  return tensor.format == TensorFormat::kLINEAR && type_fits(position, tensor.type, tensors[kValue].desc.type);
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc *inputs, int32_t input_count,
                                const DynamicPluginTensorDesc *outputs, int32_t output_count) noexcept {
  if (!are_ours(inputs, input_count, outputs, output_count)) return refuse("there are 3 inputs and 1 output");
  const char *misfit = find_misfit(inputs[kValue].desc.dims, inputs[kMerged].desc.dims, inputs[kReference].desc.dims,
                                   outputs[0].desc.dims, *attributes_);
  return misfit == nullptr ? 0 : refuse(misfit);
}

int32_t Plugin::onShapeChange(const PluginTensorDesc *inputs, int32_t input_count, const PluginTensorDesc *outputs,
                              int32_t output_count) noexcept {
  if (!are_ours(inputs, input_count, outputs, output_count)) return refuse("there are 3 inputs and 1 output");
  if (has_no_elements(outputs[0].dims)) return 0;
  idol_fused call{};
  const char *misfit = describe(inputs, outputs[0], *attributes_, &call);
  return misfit == nullptr ? 0 : refuse(misfit);
}

int32_t Plugin::enqueue(const PluginTensorDesc *input_descriptions, const PluginTensorDesc *output_descriptions,
                        const void *const *inputs, void *const *outputs, void *, cudaStream_t stream) noexcept {
  if (!input_descriptions || !output_descriptions || !inputs || !outputs) return refuse("a null pointer");
  if (has_no_elements(output_descriptions[0].dims)) return 0;
  idol_fused call{};
  if (const char *misfit = describe(input_descriptions, output_descriptions[0], *attributes_, &call))
    return refuse(misfit);
  call.value = inputs[kValue], call.merged = inputs[kMerged], call.out = outputs[0];
  call.reference = static_cast<const float *>(inputs[kReference]);
  if (!is_aligned(call.value) || !is_aligned(call.merged) || !is_aligned(call.reference) || !is_aligned(call.out))
    return refuse("a tensor does not start at a multiple of 16 bytes");
  const int32_t status = launch(call, stream);
  if (status >= IDOL_CUDA_ERROR)
    log(Severity::kERROR, "the device failed to launch the kernel: cudaError_t %d; build the library for this device",
        static_cast<int>(status - IDOL_CUDA_ERROR));
  else if (status != IDOL_OK)
    log(Severity::kERROR, "the kernel refuses the call with status %d", static_cast<int>(status));
  return status;
}

IPluginV3 *Creator::createPlugin(const char *, const PluginFieldCollection *fields, TensorRTPhase) noexcept {
  try {
    std::string why;
    std::shared_ptr<const Attributes> attributes = Attributes::read(fields, &why);
    if (attributes == nullptr) {
      log(Severity::kERROR, "%s", why.c_str());
      return nullptr;
    }
#ifdef IDOL_TRT_HOST
    log(Severity::kWARNING, "computes on the CPU and takes host pointers: no engine can use it");
#endif
    return new Plugin(std::move(attributes));
  } catch (const std::exception &error) {
    log(Severity::kERROR, "%s", error.what());
    return nullptr;
  }
}

const PluginFieldCollection *Creator::getFieldNames() noexcept {
  static const PluginField fields[] = {{"heads", nullptr, PluginFieldType::kINT32, 1},
                                       {"points", nullptr, PluginFieldType::kINT32, 1},
                                       {"shapes", nullptr, PluginFieldType::kINT32, 1}};
  static const PluginFieldCollection collection{3, fields};
  return &collection;
}

}  // namespace idol

// The functions that TensorRT looks up in a library of plugins.
extern "C" IDOL_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder *finder) { idol::set_logger_finder(finder); }

extern "C" IDOL_EXPORT nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
  static idol::Creator creator;
  static nvinfer1::IPluginCreatorInterface *const creators[] = {&creator};
  count = 1;
  return creators;
}

// Returns 1 if enqueue() takes host pointers; for callers other than TensorRT.
extern "C" IDOL_EXPORT int32_t idol_deform_attn_trt_on_host() {
#ifdef IDOL_TRT_HOST
  return 1;
#else
  return 0;
#endif
}
