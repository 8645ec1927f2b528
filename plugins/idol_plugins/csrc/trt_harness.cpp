#include "trt_harness.h"

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trt_sizes.h"

namespace {

using namespace nvinfer1;  // NOLINT: most names here are TensorRT's

// The emulated major version of TensorRT, see getInferLibMajorVersion().
int32_t played_major = NV_TENSORRT_MAJOR;

class Logger final : public ILogger, public ILoggerFinder {
 public:
  void log(Severity severity, const char *text) noexcept override {
    said_ += std::to_string(static_cast<int>(severity)) + " " + text + "\n";
  }
  // With the virtual table of another version, this call would jump to a wrong address; here it is only reported.
  ILogger *findLogger() noexcept override {
    if (played_major != NV_TENSORRT_MAJOR) log(ILogger::Severity::kINTERNAL_ERROR, "a logger of another version is used");
    return this;
  }
  std::string take() { return std::exchange(said_, {}); }

 private:
  std::string said_;
};

Dims dims_of(const idol_trt_tensor &tensor) {
  Dims dims{};
  dims.nbDims = tensor.rank;
  std::copy_n(tensor.sizes, Dims::MAX_DIMS, dims.d);
  return dims;
}

std::vector<PluginTensorDesc> describe(const idol_trt_tensor *tensors, int32_t count) {
  std::vector<PluginTensorDesc> described(static_cast<size_t>(count));
  for (PluginTensorDesc &desc : described) {
    desc.dims = dims_of(*tensors);
    desc.type = static_cast<DataType>(tensors->type), desc.format = static_cast<TensorFormat>(tensors->format);
    desc.scale = 0;
    ++tensors;
  }
  return described;
}

// The values of unknown sizes in a profile: minimum 1, optimum 2, maximum 4.
std::vector<DynamicPluginTensorDesc> describe_range(const idol_trt_tensor *tensors, int32_t count) {
  std::vector<DynamicPluginTensorDesc> described(static_cast<size_t>(count));
  const std::vector<PluginTensorDesc> plain = describe(tensors, count);
  for (size_t i = 0; i < plain.size(); ++i) {
    DynamicPluginTensorDesc &desc = described[i];
    desc.desc = plain[i];
    desc.min = desc.opt = desc.max = plain[i].dims;
    for (int32_t d = 0; d < Dims::MAX_DIMS; ++d)
      if (plain[i].dims.d[d] < 0) desc.min.d[d] = 1, desc.opt.d[d] = 2, desc.max.d[d] = 4;
  }
  return described;
}

int32_t copy_fields(const PluginFieldCollection *collection, idol_trt_field *fields, int32_t most) {
  if (collection == nullptr) return -1;
  for (int32_t i = 0; i < collection->nbFields && i < most; ++i) {
    const PluginField &field = collection->fields[i];
    fields[i] = {field.name, field.data, static_cast<int32_t>(field.type), field.length};
  }
  return collection->nbFields;
}

std::string text_of(const InterfaceInfo &info) {
  return std::string(info.kind) + " " + std::to_string(info.major) + "." + std::to_string(info.minor);
}

}  // namespace

struct idol_trt_library {
  void *handle = nullptr;
  Logger logger;
  IPluginCreatorInterface *const *creators = nullptr;
  int32_t count = 0;
  mutable std::string text;

  IPluginCreatorV3One *creator(int32_t index) const { return static_cast<IPluginCreatorV3One *>(creators[index]); }
};

struct idol_trt_plugin {
  explicit idol_trt_plugin(IPluginV3 *made) : plugin(made) {}

  template <class Interface> Interface *as(PluginCapabilityType type) const {
    return static_cast<Interface *>(plugin->getCapabilityInterface(type));
  }
  IPluginV3OneCore *core() const { return as<IPluginV3OneCore>(PluginCapabilityType::kCORE); }
  IPluginV3OneBuild *build() const { return as<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
  IPluginV3OneRuntime *runtime() const { return as<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }

  std::unique_ptr<IPluginV3> plugin;
  std::string text;
};

namespace {

idol_trt_plugin *wrap(IPluginV3 *plugin) { return plugin == nullptr ? nullptr : new idol_trt_plugin(plugin); }

}  // namespace

// Plugin libraries look this function up, as in libnvinfer.
extern "C" IDOL_HARNESS_EXPORT int32_t getInferLibMajorVersion() noexcept { return played_major; }

int32_t idol_trt_headers(void) { return static_cast<int32_t>(NV_TENSORRT_VERSION); }

idol_trt_library *idol_trt_open(const char *path, int32_t major, char *why, int32_t size) {
  played_major = major == 0 ? NV_TENSORRT_MAJOR : major;
  auto library = std::make_unique<idol_trt_library>();
  library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);  // RTLD_NOW: report a missing symbol immediately
  if (library->handle == nullptr) {
    std::snprintf(why, static_cast<size_t>(size), "%s", dlerror());
    return nullptr;
  }
  using SetLoggerFinder = void (*)(ILoggerFinder *);
  using GetCreators = IPluginCreatorInterface *const *(*)(int32_t &);
  const auto set_logger_finder = reinterpret_cast<SetLoggerFinder>(dlsym(library->handle, "setLoggerFinder"));
  const auto get_creators = reinterpret_cast<GetCreators>(dlsym(library->handle, "getCreators"));
  if (set_logger_finder == nullptr || get_creators == nullptr) {
    std::snprintf(why, static_cast<size_t>(size), "it exports no setLoggerFinder and getCreators");
    dlclose(library->handle);
    return nullptr;
  }
  set_logger_finder(&library->logger);
  library->creators = get_creators(library->count);
  return library.release();
}

void idol_trt_close(idol_trt_library *library) {
  if (auto *set = reinterpret_cast<void (*)(ILoggerFinder *)>(dlsym(library->handle, "setLoggerFinder"))) set(nullptr);
  dlclose(library->handle);
  delete library;
}

const char *idol_trt_said(idol_trt_library *library) {
  library->text = library->logger.take();
  return library->text.c_str();
}

int32_t idol_trt_on_host(const idol_trt_library *library) {
  const auto tell = reinterpret_cast<int32_t (*)()>(dlsym(library->handle, "idol_deform_attn_trt_on_host"));
  return tell == nullptr ? -1 : tell();
}

int32_t idol_trt_creators(const idol_trt_library *library) { return library->count; }

const char *idol_trt_creator_text(const idol_trt_library *library, int32_t creator, int32_t text) {
  switch (text) {
    case IDOL_TRT_KIND:
      library->text = text_of(library->creators[creator]->getInterfaceInfo());
      return library->text.c_str();
    case IDOL_TRT_NAME:
      return library->creator(creator)->getPluginName();
    case IDOL_TRT_VERSION:
      return library->creator(creator)->getPluginVersion();
    case IDOL_TRT_NAMESPACE:
      return library->creator(creator)->getPluginNamespace();
    default:
      return nullptr;
  }
}

int32_t idol_trt_creator_fields(const idol_trt_library *library, int32_t creator, idol_trt_field *fields,
                                int32_t most) {
  return copy_fields(library->creator(creator)->getFieldNames(), fields, most);
}

idol_trt_plugin *idol_trt_create(const idol_trt_library *library, int32_t creator, const idol_trt_field *fields,
                                 int32_t count, int32_t phase) {
  std::vector<PluginField> copies;
  for (int32_t i = 0; i < count; ++i)
    copies.emplace_back(fields[i].name, fields[i].data, static_cast<PluginFieldType>(fields[i].type),
                        fields[i].length);
  const PluginFieldCollection collection{count, copies.data()};
  return wrap(library->creator(creator)->createPlugin("layer", &collection, static_cast<TensorRTPhase>(phase)));
}

void idol_trt_destroy(idol_trt_plugin *plugin) { delete plugin; }

idol_trt_plugin *idol_trt_clone(idol_trt_plugin *plugin) { return wrap(plugin->plugin->clone()); }

idol_trt_plugin *idol_trt_attach(idol_trt_plugin *plugin) {
  return wrap(plugin->runtime()->attachToContext(nullptr));
}

const char *idol_trt_plugin_text(idol_trt_plugin *plugin, int32_t text) {
  switch (text) {
    case IDOL_TRT_KIND:
      plugin->text = text_of(plugin->plugin->getInterfaceInfo());
      return plugin->text.c_str();
    case IDOL_TRT_NAME:
      return plugin->core()->getPluginName();
    case IDOL_TRT_VERSION:
      return plugin->core()->getPluginVersion();
    case IDOL_TRT_NAMESPACE:
      return plugin->core()->getPluginNamespace();
    case IDOL_TRT_CACHE_ID:
      return plugin->build()->getTimingCacheID();
    case IDOL_TRT_METADATA:
      return plugin->build()->getMetadataString();
    default:
      return nullptr;
  }
}

const char *idol_trt_capability(idol_trt_plugin *plugin, int32_t capability) {
  IPluginCapability *found = plugin->plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(capability));
  if (found == nullptr) return nullptr;
  plugin->text = text_of(found->getInterfaceInfo());
  return plugin->text.c_str();
}

int32_t idol_trt_outputs(idol_trt_plugin *plugin) { return plugin->build()->getNbOutputs(); }

int32_t idol_trt_tactics(idol_trt_plugin *plugin) { return plugin->build()->getNbTactics(); }

int32_t idol_trt_aliased(idol_trt_plugin *plugin, int32_t output) {
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 3
  if (plugin->build()->getInterfaceInfo().major >= 2)
    return static_cast<IPluginV3OneBuildV2 *>(plugin->build())->getAliasedInput(output);
#endif
  (void)plugin, (void)output;
  return -1;
}

int32_t idol_trt_supports(idol_trt_plugin *plugin, int32_t position, const idol_trt_tensor *tensors, int32_t inputs,
                          int32_t outputs) {
  const auto described = describe_range(tensors, inputs + outputs);
  return plugin->build()->supportsFormatCombination(position, described.data(), inputs, outputs);
}

int32_t idol_trt_output_types(idol_trt_plugin *plugin, const int32_t *input_types, int32_t inputs,
                              int32_t *output_types, int32_t outputs) {
  std::vector<DataType> in, out(static_cast<size_t>(outputs), DataType::kBOOL);
  for (int32_t i = 0; i < inputs; ++i) in.push_back(static_cast<DataType>(input_types[i]));
  const int32_t status = plugin->build()->getOutputDataTypes(out.data(), outputs, in.data(), inputs);
  for (const DataType type : out) *output_types++ = static_cast<int32_t>(type);
  return status;
}

int32_t idol_trt_output_shapes(idol_trt_plugin *plugin, const idol_trt_tensor *known, const idol_trt_tensor *actual,
                               int32_t inputs, idol_trt_tensor *found, int32_t outputs) {
  idol::Sizes sizes;
  std::vector<DimsExprs> in(static_cast<size_t>(inputs)), out(static_cast<size_t>(outputs));
  for (DimsExprs &shape : in) {
    shape.nbDims = known->rank;
    for (int32_t d = 0; d < known->rank; ++d) shape.d[d] = sizes.add(actual->sizes[d], known->sizes[d] >= 0);
    ++known, ++actual;
  }
  const int32_t status =
      plugin->build()->getOutputShapes(in.data(), inputs, nullptr, 0, out.data(), outputs, sizes);
  for (const DimsExprs &shape : out) {
    found->rank = shape.nbDims;
    for (int32_t d = 0; status == 0 && d < shape.nbDims; ++d) {
      const int64_t size = static_cast<const idol::Size *>(shape.d[d])->value();
      found->sizes[d] = shape.d[d]->isConstant() ? size : -size - 1;
    }
    ++found;
  }
  return status;
}

int32_t idol_trt_configure(idol_trt_plugin *plugin, const idol_trt_tensor *tensors, int32_t inputs, int32_t outputs) {
  const auto described = describe_range(tensors, inputs + outputs);
  return plugin->build()->configurePlugin(described.data(), inputs, described.data() + inputs, outputs);
}

int64_t idol_trt_workspace(idol_trt_plugin *plugin, const idol_trt_tensor *tensors, int32_t inputs, int32_t outputs) {
  const auto described = describe_range(tensors, inputs + outputs);
  return static_cast<int64_t>(
      plugin->build()->getWorkspaceSize(described.data(), inputs, described.data() + inputs, outputs));
}

int32_t idol_trt_shape_change(idol_trt_plugin *plugin, const idol_trt_tensor *tensors, int32_t inputs,
                              int32_t outputs) {
  const auto described = describe(tensors, inputs + outputs);
  return plugin->runtime()->onShapeChange(described.data(), inputs, described.data() + inputs, outputs);
}

int32_t idol_trt_stored_fields(idol_trt_plugin *plugin, idol_trt_field *fields, int32_t most) {
  return copy_fields(plugin->runtime()->getFieldsToSerialize(), fields, most);
}

int32_t idol_trt_enqueue(idol_trt_plugin *plugin, const idol_trt_tensor *tensors, int32_t inputs, int32_t outputs,
                         const void *const *input_data, void *const *output_data, void *stream) {
  const auto described = describe(tensors, inputs + outputs);
  return plugin->runtime()->enqueue(described.data(), described.data() + inputs, input_data, output_data, nullptr,
                                    static_cast<cudaStream_t>(stream));
}
