// Log messages of the TensorRT plugin: through TensorRT's logger, or on stderr if there is none.
#pragma once

#include <NvInferRuntime.h>

namespace idol {

using Severity = nvinfer1::ILogger::Severity;

void set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept;

// Must be called on the thread on which TensorRT calls the plugin.
void log(Severity severity, const char *format, ...) noexcept __attribute__((format(printf, 2, 3)));

}  // namespace idol
