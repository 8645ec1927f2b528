"""Stand-ins for the GStreamer elements of JetPack: a check of pipelines on a machine that has none of them.

    /usr/bin/python3 -I jetson.py PIPELINE...

Parses and links each pipeline, as `gst-launch-1.0` does before it starts one, and prints the errors.
"""

import sys

__all__: list[str] = []

_NVMM = "video/x-raw(memory:NVMM)"
_RAW = "video/x-raw,format={I420,NV12,BGRx,RGBA,GRAY8}"  # BGR and RGB are no formats of nvvidconv
# Formats of the sink and the source of each element, and its properties that pipelines of the documents use.
_ELEMENTS = {
    "nvarguscamerasrc": (None, f"{_NVMM},format=NV12", ("sensor-id", "sensor-mode")),
    "nvvidconv": (f"{_NVMM};{_RAW}", f"{_NVMM};{_RAW}", ("flip-method",)),
    "nvv4l2decoder": ("video/x-h264;video/x-h265;image/jpeg", f"{_NVMM},format=NV12", ("mjpeg",)),
}


def _main(pipelines: list[str]) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import GLib, GObject, Gst

    Gst.init(None)

    def register(name: str, sink: str | None, source: str, properties: tuple[str, ...]) -> None:
        ways = (("sink", Gst.PadDirection.SINK, sink), ("src", Gst.PadDirection.SRC, source))
        templates = [
            Gst.PadTemplate.new(pad, direction, Gst.PadPresence.ALWAYS, Gst.Caps.from_string(caps))
            for pad, direction, caps in ways
            if caps
        ]

        def init(element: object) -> None:
            Gst.Element.__init__(element)
            for template in templates:
                Gst.Element.add_pad(element, Gst.Pad.new_from_template(template, template.name_template))

        keys = {key: (int, key, key, 0, 255, 0, GObject.ParamFlags.READWRITE) for key in properties}
        body = {"__gproperties__": keys, "__init__": init, "do_set_property": lambda *_: None}
        kind = type(name, (Gst.Element,), body)
        kind.set_metadata(name, "Video", "stand-in", "tests")
        for template in templates:
            kind.add_pad_template(template)
        Gst.Element.register(None, name, Gst.Rank.NONE, kind)

    for name, form in _ELEMENTS.items():
        register(name, *form)
    for pipeline in pipelines:
        try:
            Gst.parse_launch(pipeline)
        except GLib.Error as error:
            print(f"{pipeline}: {error.message}")  # noqa: T201 - the test reads it


if __name__ == "__main__":
    _main(sys.argv[1:])
