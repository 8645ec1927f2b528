"""The plugin's names, and the plugin in the registry of TensorRT-RTX, which needs no GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from idol_plugins.errors import PluginError
from idol_plugins.trt import NAME, NAMESPACE, NODE_ATTRIBUTES, PLUGIN_VERSION, trt_library

# Runs in a process of its own, because TensorRT-RTX ends the process on an error.
REGISTER = """
import json, sys
import numpy as np
import tensorrt_rtx_bindings as trt

library, name, version, namespace = sys.argv[1:]
registry = trt.get_plugin_registry()
handle = registry.load_library(library)
creator = registry.get_creator(name, version, namespace)
asked = [field.name for field in creator.field_names]
made = []
for dtype, kind in ((np.int32, trt.PluginFieldType.INT32), (np.int64, trt.PluginFieldType.INT64)):
    values = {"heads": [8], "points": [4], "shapes": [9, 14, 5, 7]}
    fields = [trt.PluginField(key, np.array(value, dtype), kind) for key, value in values.items()]
    for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME):
        plugin = creator.create_plugin("layer", trt.PluginFieldCollection(fields), phase)
        core, build = map(plugin.get_capability_interface, (
            trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD))
        made.append([core.plugin_name, core.plugin_version, core.plugin_namespace, build.num_outputs,
                     build.metadata_string])
refused = creator.create_plugin("layer", trt.PluginFieldCollection(fields[:2]), trt.TensorRTPhase.BUILD)
registry.deregister_library(handle)
gone = registry.get_creator(name, version, namespace) is None
print(json.dumps({"asked": asked, "made": made, "refused": refused is None, "gone": gone}))
"""


def test_a_plugin_that_is_not_built_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="idol-deploy plugins build"):
        trt_library(tmp_path)
    (tmp_path / "libidol_deform_attn_trt_host.so").touch()  # the plugin for tests must not be found
    with pytest.raises(PluginError, match=r"libidol_deform_attn_trt\.so is not built"):
        trt_library(tmp_path)


def test_the_node_names_the_plugin() -> None:
    assert NODE_ATTRIBUTES == {"plugin_version": PLUGIN_VERSION, "plugin_namespace": NAMESPACE}
    assert (NAME, PLUGIN_VERSION, NAMESPACE) == ("DeformAttn", "1", "idol_deploy")


@pytest.mark.slow
def test_tensorrt_rtx_registers_the_plugin(trt_harness: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip(
            "tensorrt_rtx_bindings is not installed; scripts/test-tensorrt-rtx installs it, and runs this"
        )
    library = trt_harness.with_name("libidol_deform_attn_trt_host.so")
    command = [sys.executable, "-c", REGISTER, str(library), NAME, PLUGIN_VERSION, NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert sorted(report["asked"]) == ["heads", "points", "shapes"]
    expected = [NAME, PLUGIN_VERSION, NAMESPACE, 1, "heads=8 points=4 shapes=9,14,5,7"]
    assert report["made"] == 4 * [expected]
    assert report["refused"]
    assert report["gone"]
