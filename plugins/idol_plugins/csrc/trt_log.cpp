#include "trt_log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>

namespace {

#ifdef IDOL_TRT_HOST
constexpr const char *kName = "idol_deploy::DeformAttn (host build, for tests)";
#else
constexpr const char *kName = "idol_deploy::DeformAttn";
#endif

std::atomic<nvinfer1::ILoggerFinder *> logger_finder{nullptr};

// TensorRT 11 moved the virtual functions of ILogger and ILoggerFinder, so a logger of another major version than the
// headers must not be called. The library that contains the finder's virtual table gives the version.
bool is_of_our_version(nvinfer1::ILoggerFinder *finder) {
  Dl_info info{};
  const void *table = *reinterpret_cast<void *const *>(finder);
  if (dladdr(table, &info) == 0 || info.dli_fname == nullptr) return false;
  void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return false;
  const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibMajorVersion"));
  const bool same = version != nullptr && version() == NV_TENSORRT_MAJOR;
  dlclose(library);
  return same;
}

nvinfer1::ILogger *find_logger() noexcept {
  nvinfer1::ILoggerFinder *finder = logger_finder;
  if (finder == nullptr) return nullptr;
  try {
    return finder->findLogger();
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

void idol::set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept {
  logger_finder = finder != nullptr && is_of_our_version(finder) ? finder : nullptr;
}

void idol::log(Severity severity, const char *format, ...) noexcept {
  char text[768], line[sizeof text + 64];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::snprintf(line, sizeof line, "%s: %s", kName, text);
  if (nvinfer1::ILogger *logger = find_logger())
    logger->log(severity, line);
  else if (severity <= Severity::kWARNING)
    std::fprintf(stderr, "%s\n", line);
}
