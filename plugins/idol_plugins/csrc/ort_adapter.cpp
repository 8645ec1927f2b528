// DeformAttn, version 1 of domain idol_deploy, for ONNX Runtime 1.17 and newer: for the CPU provider, and with
// IDOL_CUDA for the CUDA provider as well.
//
//   inputs      value [N, S, M, D] T, merged [N, Q, M*L*P*3] U, reference [N or 1, Q, L, 2 or 4] float
//   output      [N, Q, M*D] T
//   attributes  heads = M, points = P, shapes = h and w of each level
//   types       (T, U): (float, float), (float16, float16), (float16, float), (bfloat16, float)
//
// Only the C interface is used, and only what 1.17 has.
#include <onnxruntime_c_api.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "call_checks.h"
#include "idol_deform_attn_cpu.h"
#ifdef IDOL_CUDA
#include "idol_deform_attn_cuda.h"
#endif

namespace {

constexpr uint32_t kApiVersion = 17;
constexpr const char *kDomain = "idol_deploy";

const OrtApi *api = nullptr;  // set once, when the library is registered

#define IDOL_TRY(call)                                 \
  do {                                                 \
    if (OrtStatus *status_ = (call)) return status_;   \
  } while (false)

OrtStatus *refuse(const std::string &why) {
  return api->CreateStatus(ORT_INVALID_ARGUMENT, ("DeformAttn: " + why).c_str());
}

std::string text_of(int32_t status) {
#ifdef IDOL_CUDA
  if (status >= IDOL_CUDA_ERROR)
    return "the CUDA device failed to launch the kernel: error " + std::to_string(status - IDOL_CUDA_ERROR);
#endif
  return idol::text_of(status);
}

// The operator for one pair of types on one provider; ONNX Runtime merges entries with the same name.
struct Operator : OrtCustomOp {
  ONNXTensorElementDataType value, merged;
  const char *provider;
  int32_t (*call)(const idol_fused &call, OrtKernelContext *context, OrtStatus **status);
};

const Operator &as_operator(const OrtCustomOp *op) { return *static_cast<const Operator *>(op); }

struct Kernel {
  int64_t heads, points;
  std::vector<int64_t> shapes;
  int32_t type, merged_type;
  const Operator *op;
};

int32_t type_of(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return IDOL_FLOAT16;
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? IDOL_BFLOAT16 : IDOL_FLOAT32;
}

OrtStatus *create_kernel(const OrtCustomOp *op, const OrtApi *, const OrtKernelInfo *info, void **created) {
  std::unique_ptr<Kernel> kernel(new (std::nothrow) Kernel{});
  if (kernel == nullptr) return refuse("out of memory");
  IDOL_TRY(api->KernelInfoGetAttribute_int64(info, "heads", &kernel->heads));
  IDOL_TRY(api->KernelInfoGetAttribute_int64(info, "points", &kernel->points));
  size_t count = 0;
  IDOL_TRY(api->KernelInfoGetAttributeArray_int64(info, "shapes", nullptr, &count));
  if (count == 0 || count % 2 != 0) return refuse("shapes must be h, w per level");
  kernel->shapes.resize(count);
  IDOL_TRY(api->KernelInfoGetAttributeArray_int64(info, "shapes", kernel->shapes.data(), &count));
  kernel->type = type_of(as_operator(op).value);
  kernel->merged_type = type_of(as_operator(op).merged);
  kernel->op = &as_operator(op);
  *created = kernel.release();
  return nullptr;
}

struct Input {
  const void *data;
  std::vector<int64_t> shape;
};

OrtStatus *read_input(const OrtKernelContext *context, size_t index, Input *input) {
  const OrtValue *value = nullptr;
  IDOL_TRY(api->KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo *raw = nullptr;
  IDOL_TRY(api->GetTensorTypeAndShape(value, &raw));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo *)> info(
      raw, api->ReleaseTensorTypeAndShapeInfo);
  size_t rank = 0;
  IDOL_TRY(api->GetDimensionsCount(info.get(), &rank));
  input->shape.resize(rank);
  IDOL_TRY(api->GetDimensions(info.get(), input->shape.data(), rank));
  void *data = nullptr;
  IDOL_TRY(api->GetTensorMutableData(const_cast<OrtValue *>(value), &data));
  input->data = data;
  return nullptr;
}

// Runs `range` on ONNX Runtime's own threads.
struct Loop {
  idol_range range;
  void *work;
  int64_t count, parts;
};

void run_part(void *opaque, size_t part) {
  const Loop &loop = *static_cast<const Loop *>(opaque);
  const auto i = static_cast<int64_t>(part);
  loop.range(loop.work, loop.count * i / loop.parts, loop.count * (i + 1) / loop.parts);
}

void parallel_for(void *pool, int64_t count, idol_range range, void *work) {
  constexpr int64_t most = 64;  // enough for threads of different speed, few enough to cost no time
  Loop loop{range, work, count, count < most ? count : most};
  OrtStatus *status = api->KernelContext_ParallelFor(static_cast<const OrtKernelContext *>(pool), run_part,
                                                     static_cast<size_t>(loop.parts), 0, &loop);
  if (status == nullptr) return;
  api->ReleaseStatus(status);  // refused before any work was done
  range(work, 0, count);
}

int32_t call_cpu(const idol_fused &call, OrtKernelContext *context, OrtStatus **) {
  const idol_options options{IDOL_ISA_AUTO, 1, parallel_for, context};
  return idol_deform_attn_fused(&call, &options);
}

#ifdef IDOL_CUDA
// Queues the kernel in the session's stream; the arrays are on its device.
int32_t call_cuda(const idol_fused &call, OrtKernelContext *context, OrtStatus **status) {
  void *stream = nullptr;
  *status = api->KernelContext_GetGPUComputeStream(context, &stream);
  return *status == nullptr ? idol_deform_attn_cuda_fused(&call, stream) : IDOL_OK;
}
#endif

OrtStatus *compute_checked(const Kernel &kernel, OrtKernelContext *context) {
  Input value, merged, reference;
  IDOL_TRY(read_input(context, 0, &value));
  IDOL_TRY(read_input(context, 1, &merged));
  IDOL_TRY(read_input(context, 2, &reference));
  if (value.shape.size() != 4 || merged.shape.size() != 3 || reference.shape.size() != 4)
    return refuse("value and reference have 4 dimensions, merged has 3");
  const int64_t images = value.shape[0], queries = merged.shape[1], heads = value.shape[2], width = value.shape[3];
  const auto levels = static_cast<int64_t>(kernel.shapes.size() / 2);
  if (heads != kernel.heads) return refuse("value's third dimension is not the attribute heads");
  if (merged.shape[0] != images || merged.shape[2] != 3 * heads * levels * kernel.points)
    return refuse("merged is not [N, Q, 3 * heads * levels * points]");
  if (reference.shape[1] != queries || reference.shape[2] != levels)
    return refuse("reference is not [N or 1, Q, levels, 2 or 4]");
  const int64_t shape[] = {images, queries, heads * width};
  OrtValue *output = nullptr;
  IDOL_TRY(api->KernelContext_GetOutput(context, 0, shape, 3, &output));
  void *out = nullptr;
  IDOL_TRY(api->GetTensorMutableData(output, &out));

  idol_fused call{};
  call.sizes = {images, value.shape[1], queries, heads, width, levels, kernel.points, kernel.shapes.data()};
  call.type = kernel.type, call.merged_type = kernel.merged_type;
  call.value = value.data, call.merged = merged.data, call.out = out;
  call.reference = static_cast<const float *>(reference.data);
  call.reference_images = reference.shape[0], call.reference_width = reference.shape[3];
  OrtStatus *failed = nullptr;
  const int32_t status = kernel.op->call(call, context, &failed);
  if (failed != nullptr) return failed;
  return status == IDOL_OK ? nullptr : refuse(text_of(status));
}

OrtStatus *compute(void *kernel, OrtKernelContext *context) {
  try {
    return compute_checked(*static_cast<const Kernel *>(kernel), context);
  } catch (const std::bad_alloc &) {
    return refuse("out of memory");
  }
}

// Infers the output's shape [N, Q, M * D] from the known sizes of the inputs.
OrtStatus *infer(const OrtCustomOp *, OrtShapeInferContext *context) {
  OrtTensorTypeAndShapeInfo *value = nullptr, *merged = nullptr;
  IDOL_TRY(api->ShapeInferContext_GetInputTypeShape(context, 0, &value));
  IDOL_TRY(api->ShapeInferContext_GetInputTypeShape(context, 1, &merged));
  size_t value_rank = 0, merged_rank = 0;
  IDOL_TRY(api->GetDimensionsCount(value, &value_rank));
  IDOL_TRY(api->GetDimensionsCount(merged, &merged_rank));
  if (value_rank != 4 || merged_rank != 3) return nullptr;  // unknown here; compute() checks it
  int64_t v[4], m[3];
  const char *names[4], *merged_names[3];
  IDOL_TRY(api->GetDimensions(value, v, 4));
  IDOL_TRY(api->GetDimensions(merged, m, 3));
  IDOL_TRY(api->GetSymbolicDimensions(value, names, 4));
  IDOL_TRY(api->GetSymbolicDimensions(merged, merged_names, 3));
  const int64_t shape[] = {v[0], m[1], v[2] < 0 || v[3] < 0 ? -1 : v[2] * v[3]};
  const char *symbols[] = {names[0], merged_names[1], ""};
  OrtTensorTypeAndShapeInfo *raw = nullptr;
  IDOL_TRY(api->CreateTensorTypeAndShapeInfo(&raw));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo *)> info(
      raw, api->ReleaseTensorTypeAndShapeInfo);
  // Independent of `op`, because ONNX Runtime calls only the first of the entries with the same name.
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  IDOL_TRY(api->GetTensorElementType(value, &type));
  IDOL_TRY(api->SetTensorElementType(info.get(), type));
  IDOL_TRY(api->SetDimensions(info.get(), shape, 3));
  if (shape[0] < 0 || shape[1] < 0 || shape[2] < 0)
    IDOL_TRY(api->SetSymbolicDimensions(info.get(), symbols, 3));
  return api->ShapeInferContext_SetOutputTypeShape(context, 0, info.get());
}

Operator make_cpu(ONNXTensorElementDataType value, ONNXTensorElementDataType merged) {
  Operator op{};
  op.version = kApiVersion;
  op.value = value, op.merged = merged;
  op.provider = "CPUExecutionProvider", op.call = call_cpu;
  op.GetName = [](const OrtCustomOp *) { return "DeformAttn"; };
  op.GetExecutionProviderType = [](const OrtCustomOp *self) { return as_operator(self).provider; };
  op.GetInputTypeCount = [](const OrtCustomOp *) { return size_t{3}; };
  op.GetInputType = [](const OrtCustomOp *self, size_t index) {
    if (index == 2) return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    return index == 0 ? as_operator(self).value : as_operator(self).merged;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp *) { return size_t{1}; };
  op.GetOutputType = [](const OrtCustomOp *self, size_t) { return as_operator(self).value; };
  op.GetInputCharacteristic = [](const OrtCustomOp *, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp *, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp *, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = [](const OrtCustomOp *) { return 1; };
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = [](const OrtCustomOp *) { return 1; };
  op.GetStartVersion = op.GetEndVersion = [](const OrtCustomOp *) { return 1; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
  op.InferOutputShapeFn = infer;
  return op;
}

#ifdef IDOL_CUDA
Operator make_cuda(ONNXTensorElementDataType value, ONNXTensorElementDataType merged) {
  Operator op = make_cpu(value, merged);
  op.provider = "CUDAExecutionProvider", op.call = call_cuda;
  return op;
}
#endif

}  // namespace

extern "C" IDOL_EXPORT OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  constexpr auto f32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, f16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  constexpr auto bf16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  // Static, because sessions keep pointers to them.
  static const Operator operators[] = {
      make_cpu(f32, f32),  make_cpu(f16, f16),  make_cpu(f16, f32),  make_cpu(bf16, f32),
#ifdef IDOL_CUDA
      make_cuda(f32, f32), make_cuda(f16, f16), make_cuda(f16, f32), make_cuda(bf16, f32),
#endif
  };
  api = base->GetApi(kApiVersion);
  if (api == nullptr) return base->GetApi(1)->CreateStatus(ORT_FAIL, "DeformAttn needs ONNX Runtime 1.17 or newer");
  OrtCustomOpDomain *domain = nullptr;
  IDOL_TRY(api->CreateCustomOpDomain(kDomain, &domain));
  for (const Operator &op : operators) {
    if (OrtStatus *status = api->CustomOpDomain_Add(domain, &op)) {
      api->ReleaseCustomOpDomain(domain);
      return status;
    }
  }
  return api->AddCustomOpDomain(options, domain);  // the options hold a copy of the domain's list
}
