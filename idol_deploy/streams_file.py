"""The file of `idol-deploy run --streams`: a list of sources that may change during the run.

    [[streams]]
    name = "door"
    source = "rtsp://door/live"
    jsonl = "door.jsonl"
    queue = "latest"

The fields of a stream are its name, its source, and the options of `run` for one source, with the values that they have
on the command line. The command line has the values of the fields that are missing.
"""

import argparse
import contextlib
import copy
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec

from idol_deploy.stream_requests import MAX_NAME, Fields, RequestError, StreamRequests
from idol_runtime.errors import ConfigError, IdolError
from idol_runtime.events import Event, Tell, guarded
from idol_runtime.files import replacing
from idol_runtime.run.options import RunOptions, check_outputs
from idol_runtime.run.run import Run
from idol_runtime.serve.messages import MAX_SERVED, Edit, Reply

__all__ = ["MAX_BYTES", "MAX_STREAMS", "StreamsFile"]

MAX_BYTES, MAX_STREAMS = 2**20, 1000
# Time between two looks at the file. A change is used when it has stayed the same for this time.
_POLL_S = 1.0
# Longest wait for the start of a stream that a client adds.
_START_S = 5.0


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    streams: list[Fields]


class _Parser(argparse.ArgumentParser):
    """A parser of one field that raises an error instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(re.sub("^argument --", "", message))


class StreamsFile:
    """A list of streams in a TOML or JSON file."""

    def __init__(
        self,
        path: Path,
        add_options: Callable[[argparse.ArgumentParser], None],
        source_options: Callable[[argparse.Namespace], RunOptions],
        defaults: argparse.Namespace,
    ) -> None:
        """Prepare to read a file.

        Args:
            path: path of the file; a name that ends in `.json` is JSON, another one TOML.
            add_options: function that adds the options of a source to a parser.
            source_options: function that returns the options of a source from parsed arguments.
            defaults: parsed arguments of the command line.
        """
        self._path, self._source_options, self._defaults = path, source_options, defaults
        self._parser = _Parser(add_help=False, allow_abbrev=False)
        add_options(self._parser)
        self._content = b""
        self._streams: dict[str, RunOptions] = {}
        self._changing: set[str] = set()  # streams that a thread adds or removes
        self._problems: dict[str, str] = {}  # of streams that the last change added in vain
        self._lock = threading.Condition()
        self._using = threading.Lock()  # held while a content is checked and used

    @property
    def editable(self) -> bool:
        """True if `edit` can change the list: it is JSON, which can be written again without losing comments."""
        return self._path.suffix.lower() == ".json"

    @property
    def pending(self) -> bool:
        """True if a source is being added, or the list is empty and waits for one."""
        return not self._streams or bool(self._changing)

    def load(self) -> list[RunOptions]:
        """Read the file and return the options of all streams.

        Raises:
            ConfigError: the file cannot be read, or has wrong fields.
        """
        self._content = self._read()
        self._streams = self._parse(self._content)
        return list(self._streams.values())

    @contextlib.contextmanager
    def watch(self, run: Run, tell: Tell) -> Iterator[None]:
        """Follow the changes of the file until exit: add, remove and restart sources of a run.

        A content that cannot be used is told once, and the run goes on with the streams before it.
        """
        ended = threading.Event()
        thread = threading.Thread(
            target=self._follow, args=(run, guarded(tell), ended), name="idol-streams-file", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def edit(self, run: Run, tell: Tell, requests: StreamRequests, edit: Edit) -> Reply:
        """Add a stream to the file or remove one, and use the change at once.

        Args:
            run: run of the streams.
            tell: function that receives what is refused when the source is opened.
            requests: checks of a stream to add.
            edit: change of the list.

        Returns:
            The answer for the client: 404 for a stream that is not listed, 409 if the list cannot take the change, and
            422 for a stream that is not allowed or cannot be used.
        """
        try:
            with self._using:
                self._edit(run, tell, requests, edit)
        except IdolError as error:
            return Reply(edit.id, str(error), error.status if isinstance(error, RequestError) else 422)
        return Reply(edit.id)

    def _edit(self, run: Run, tell: Tell, requests: StreamRequests, edit: Edit) -> None:
        try:
            content = self._read()
            streams = self._parse(content)
            entries = msgspec.json.decode(content, type=_Content).streams
        except IdolError as error:
            raise RequestError(f"the streams file has an error that comes first: {error}", 409) from error
        if edit.add is None:
            if edit.remove not in streams:
                raise RequestError(
                    f"no stream is named {edit.remove[:MAX_NAME]!r}; give the name of a listed one", 404
                )
            del streams[edit.remove]
            entries = [entry for entry in entries if entry.get("name") != edit.remove]
        else:
            name, fields = requests.checked(edit.add)
            if name in streams:
                raise RequestError(f"another stream is named {name}; give another name", 409)
            if len(streams) >= MAX_SERVED:
                raise RequestError(f"{len(streams)} streams are listed; remove one first", 409)
            options = self._options(name, dict(fields))
            check_outputs([options], self._path, *requests.protected, running=list(streams.values()))
            streams[name] = options
            entries.append({"name": name, **fields})
        self._write(content, entries)
        self._apply(run, tell, streams)
        if edit.add is not None:
            with self._lock:
                self._lock.wait_for(lambda: name not in self._changing, _START_S)
                problem = self._problems.pop(name, "")
            if problem:  # the next start would end with it
                self._write(self._content, entries[:-1])
                raise RequestError(problem)

    def _write(self, before: bytes, entries: list[Fields]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_Content(entries)), indent=2) + b"\n"
        with replacing(self._path, keep_mode=True) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if self._read() != before:  # written by somebody in the meantime
                raise RequestError("the streams file was changed at the same time; try again", 409)
        self._content = content

    def _follow(self, run: Run, tell: Tell, ended: threading.Event) -> None:
        last, told = self._content, ""
        while not ended.wait(_POLL_S):
            with self._using:
                last, problem = self._look(run, tell, last)
            if problem is None:
                continue
            if problem and problem != told:
                message = f"{problem.removeprefix(f'{self._path}: ')}; the streams before this change go on"
                tell(Event("refused", self._path.name, message))
            elif told and not problem:
                tell(Event("accepted", self._path.name, "the list of streams is in use again"))
            told = problem

    def _look(self, run: Run, tell: Tell, last: bytes) -> tuple[bytes, str | None]:
        """Use the content if it has changed and has been the same at the last look.

        Returns:
            The content, and its problem: empty for none; None for a content that was another one at the last look.
        """
        content = last
        try:
            content = self._read()
            if content != last:
                return content, None
            if content != self._content:
                streams = self._parse(content)
                same = [new for name, new in streams.items() if new == self._streams.get(name)]
                check_outputs([new for new in streams.values() if new not in same], self._path, running=same)
                self._content = content
                self._apply(run, tell, streams)
        except IdolError as error:
            return content, str(error)
        return content, ""

    def _apply(self, run: Run, tell: Tell, streams: dict[str, RunOptions]) -> None:
        with self._lock:
            self._problems.clear()
            before = self._streams
            changed = [
                name for name in before.keys() | streams.keys() if before.get(name) != streams.get(name)
            ]
            self._streams = {name: streams[name] if name in changed else before[name] for name in streams}
            idle = [name for name in changed if name not in self._changing]
            self._changing.update(idle)
        # Before any is added, which may have an output of one that ends.
        ended = {name for name in changed if _remove(run, name)}
        for name in idle:
            if name not in streams and name not in ended:  # its source had ended before
                tell(Event("removed", name, "removed from the list"))
            # Opening a source may take long, and must not delay another change.
            threading.Thread(
                target=self._change,
                args=(run, tell, name, before.get(name) if name in ended else None),
                name="idol-stream-change",
                daemon=True,
            ).start()

    def _change(self, run: Run, tell: Tell, name: str, before: RunOptions | None) -> None:
        """End the stream of this name, if it runs, and start the listed one, if any, until the list stays the same.

        Args:
            run: run of the streams.
            tell: function that receives what is refused.
            name: name of the stream.
            before: stream that ran until this change, started again if the listed one cannot be; None for none.
        """
        done: RunOptions | None = None
        while True:
            with self._lock:
                new = self._streams.get(name)
                if new is done:
                    self._changing.remove(name)
                    self._lock.notify_all()
                    return
                done = new
            _remove(run, name)
            if new is not None:
                try:
                    run.add(new)
                    before = new
                except Exception as error:  # noqa: BLE001 - a thread that ends would block this name
                    problem = str(error) if isinstance(error, IdolError) else repr(error)
                    before = None if before is new else before
                    more = "" if before is None else "; the stream before this change goes on"
                    tell(Event("refused", name, f"not added: {problem}{more}"))
                    self._fall_back(new, before, problem)

    def _fall_back(self, refused: RunOptions, before: RunOptions | None, problem: str) -> None:
        """List the stream before a refused one, if it is still listed; the next change of the file tries it again."""
        with self._lock:
            if self._streams.get(refused.name) is refused:
                self._problems[refused.name] = problem
                del self._streams[refused.name]
                if before is not None:
                    self._streams[refused.name] = before

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            fix = "check the path"
            if self.editable and isinstance(error, FileNotFoundError):
                fix = f"""create it with: echo '{{"streams": []}}' > {self._path}"""
            raise ConfigError(f"cannot read {self._path}: {error.strerror}; {fix}") from error
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{self._path} is larger than {MAX_BYTES} bytes; list fewer streams")
        return content

    def _parse(self, content: bytes) -> dict[str, RunOptions]:
        try:
            if self._path.suffix.lower() == ".json":
                entries = msgspec.json.decode(content, type=_Content).streams
            elif sys.version_info >= (3, 11):
                import tomllib

                entries = msgspec.convert(tomllib.loads(content.decode()), _Content).streams
            else:
                raise ConfigError(
                    f"{self._path} is TOML, which needs Python 3.11; write JSON into a .json file"
                )
        except (ValueError, RecursionError) as error:  # no TOML, no JSON, no UTF-8, or other fields
            raise ConfigError(f"{self._path}: {error}; list streams with a name and a source each") from error
        if len(entries) > MAX_STREAMS:
            raise ConfigError(f"{self._path} has {len(entries)} streams; list at most {MAX_STREAMS}")
        streams: dict[str, RunOptions] = {}
        for number, entry in enumerate(entries, 1):
            name = str(entry.pop("name", ""))
            try:
                if not name:
                    raise ConfigError("the name is missing; give every stream one")
                if name in streams:
                    raise ConfigError("another stream has this name; give each its own")
                streams[name] = self._options(name, entry)
            except IdolError as error:
                raise ConfigError(f"{self._path}: stream {name or number}: {error}") from error
        return streams

    def _options(self, name: str, fields: Fields) -> RunOptions:
        source = fields.pop("source", "")
        if source == "" or isinstance(source, bool | float):
            raise ConfigError("the source is missing; give a path, a URL or a camera")
        arguments = copy.copy(self._defaults)
        actions = {action.option_strings[0][2:]: action for action in self._parser._actions}
        for field, value in fields.items():
            action = actions.get(field.replace("_", "-"))
            if action is None:
                names = ", ".join(["name", "source", *(name.replace("-", "_") for name in actions)])
                raise ConfigError(f"unknown field: {field}; use {names}")
            if action.nargs == 0:
                if not isinstance(value, bool):
                    raise ConfigError(f"{field} must be true or false, got {value!r}")
                setattr(arguments, action.dest, action.const if value else action.default)
            else:
                self._parser.parse_args([f"{action.option_strings[0]}={value}"], arguments)
        options = self._source_options(arguments)
        label = re.sub(r"[^\w.-]+", "_", name).strip("_.") or "source"
        for path in options.paths:
            if "{number}" in str(path):
                raise ConfigError(f"{path}: streams have no numbers; write {{source}} for the name")
        return replace(options.for_source(source, label, 0), name=name)


def _remove(run: Run, name: str) -> bool:
    """End the stream of this name; return False if it has ended, or was never opened."""
    try:
        run.remove(name)
    except ConfigError:
        return False
    return True
