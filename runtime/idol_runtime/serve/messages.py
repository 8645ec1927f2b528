"""Messages between a run and its server process, over a pair of Unix sockets.

The run starts `idol_runtime.serve.server` in a process with the numbers of two inherited descriptors as arguments: its
end of the pair of sockets, and the TCP socket that listens. The server ends with the connection, and for no signal: the
run ends it.

A message is its length in bytes (4, big-endian) and one msgspec struct as MessagePack. The run sends `Hello` first;
both sides then send at any time.

n: instances; h, w: height and width of a picture in pixels.
"""

from typing import BinaryIO, TypeAlias

import msgspec

from idol_runtime.events import Event
from idol_runtime.json_text import to_json

__all__ = [
    "MAX_EVENTS",
    "MAX_SERVED",
    "Edit",
    "End",
    "EventMessage",
    "FrameMessage",
    "FromRun",
    "FromServer",
    "Hello",
    "Picture",
    "Reply",
    "StreamInfo",
    "StreamsMessage",
    "Tick",
    "Watch",
    "decode_from_run",
    "decode_from_server",
    "encode",
    "receive",
]

# Longest message of the server, which repeats the body of a request.
_MAX_BYTES = 2**22
# Last events that are stored, and streams that are served.
MAX_EVENTS, MAX_SERVED = 1000, 64


class StreamInfo(msgspec.Struct):
    """A stream of the run.

    Attributes:
        name: name of the stream, unique in the run; any text.
        source: its source, without passwords.
        live: True for a camera or a network stream.
        state: kind of the last event about its connection: `waiting`, `connected`, `lost`, `back`, `added` or `ended`.
        since: time of that event, in seconds since 1970.
        message: sentence of that event.
        reconnects: number of times that the source came back.
        stopped_outputs: outputs that cannot be written at the moment.
    """

    name: str
    source: str
    live: bool
    state: str
    since: float
    message: str = ""
    reconnects: int = 0
    stopped_outputs: list[str] = []


class EventMessage(msgspec.Struct, tag=True):
    """An event of the run.

    Attributes:
        event: the event.
        id: its number; numbers are consecutive, and increase from one run to the next.
    """

    event: Event
    id: int


class Hello(msgspec.Struct, tag=True):
    """The first message of a run.

    Attributes:
        version: version of idol_deploy.
        pid: process of the run.
        started: start of the run, in seconds since 1970.
        backend: description of the inference engine.
        graph: name of the graph.
        device: device of the network.
        bundle: file name of the bundle.
        class_names: class names in the order of `FrameMessage.labels`.
        page: True for the page and the API; False for health and metrics alone.
        editable: True if streams can be added and removed.
        token: token that clients must know; empty for none.
        hosts: names that a client may write in its Host header, in lower case; addresses are always accepted, because
            only a name can lead a browser from another site to this server.
        streams: streams of the run.
        events: last events so far, oldest first.
    """

    version: str
    pid: int
    started: float
    backend: str
    graph: str
    device: str
    bundle: str
    class_names: list[str]
    page: bool
    editable: bool
    token: str
    hosts: list[str]
    streams: list[StreamInfo]
    events: list[EventMessage]


class Picture(msgspec.Struct):
    """A frame for drawing, with the masks of its instances.

    Attributes:
        size: (h, w) of the picture, which may be smaller than the frame.
        rgb: [h, w, 3] uint8 RGB, contiguous.
        masks: [n, mask height, mask width] float32 mask logits at stride 4 of the network input.
        mask_size: (mask height, mask width).
        network: (h, w) of the network input.
        content: (h, w) of the frame within the network input.
    """

    size: tuple[int, int]
    rgb: memoryview
    masks: memoryview
    mask_size: tuple[int, int]
    network: tuple[int, int]
    content: tuple[int, int]


class FrameMessage(msgspec.Struct, tag=True):
    """A processed frame.

    Attributes:
        stream: name of the stream.
        index: number of the frame in its source.
        time_s: time of the frame in its source, in seconds.
        wall: time of the result, in seconds since 1970.
        size: (height, width) of the frame in pixels.
        ids: [n] identities, best score first.
        labels: [n] classes.
        scores: [n] scores, in 0..1.
        boxes_xyxy: [n][4] boxes in pixels of the frame.
        stages: seconds by stage; see `observer.STAGES`.
        age_s: seconds from the arrival of the frame to its result; None for a file.
        frames: number of frames processed so far.
        dropped: number of frames dropped so far.
        tracks: number of identities started so far.
        picture: picture of the frame, if the stream is watched and a picture is due.
    """

    stream: str
    index: int
    time_s: float
    wall: float
    size: tuple[int, int]
    ids: list[int]
    labels: list[int]
    scores: list[float]
    boxes_xyxy: list[list[float]]
    stages: dict[str, float]
    age_s: float | None
    frames: int
    dropped: int
    tracks: int
    picture: Picture | None = None


class StreamsMessage(msgspec.Struct, tag=True):
    """The streams of the run after a change of the list or of a connection."""

    streams: list[StreamInfo]


class Tick(msgspec.Struct, tag=True):
    """A sign of life, once a second.

    Attributes:
        step_age_s: seconds since the loop of the network ran last; grows while the network hangs.
        unsent: number of messages dropped because the server was slow.
    """

    step_age_s: float
    unsent: int


class End(msgspec.Struct, tag=True):
    """The last message of a run that ends by itself or is stopped; one that is killed sends none."""


class Reply(msgspec.Struct, tag=True):
    """The answer to an `Edit`.

    Attributes:
        id: number of the request.
        error: reason for a refusal; empty if the change is made.
        status: HTTP status of the refusal.
    """

    id: int
    error: str = ""
    status: int = 200


class Watch(msgspec.Struct, tag=True):
    """The streams whose pictures and masks are needed from now on; replaces the last one."""

    streams: list[str]


class Edit(msgspec.Struct, tag=True):
    """A request to change the list of streams.

    Attributes:
        id: number that the reply repeats.
        add: fields of a stream to add, as in the file of `--streams`; None to remove one.
        remove: name of the stream to remove.
    """

    id: int
    add: dict[str, str | int | float | bool] | None = None
    remove: str = ""


FromRun: TypeAlias = Hello | FrameMessage | EventMessage | StreamsMessage | Tick | Reply | End
FromServer: TypeAlias = Watch | Edit

_encoder = msgspec.msgpack.Encoder()
decode_from_run = msgspec.msgpack.Decoder(FromRun).decode
decode_from_server = msgspec.msgpack.Decoder(FromServer).decode


def encode(message: FromRun | FromServer) -> bytearray:
    """Return a message with its length; parts of file names that are no UTF-8 become question marks."""
    data = bytearray(4)
    try:
        _encoder.encode_into(message, data, 4)
    except UnicodeEncodeError:
        _encoder.encode_into(msgspec.json.decode(to_json(message), type=type(message)), data, 4)
    data[:4] = (len(data) - 4).to_bytes(4, "big")
    return data


def receive(stream: BinaryIO) -> bytes | None:
    """Wait for a message of the server and return it without its length; None at the end of the connection.

    Raises:
        OSError: the connection is broken, or the message is too long.
    """
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if size > _MAX_BYTES:
        raise OSError(f"a message of {size} bytes; at most {_MAX_BYTES} are expected")
    data = stream.read(size)
    return data if len(head) == 4 and len(data) == size else None
