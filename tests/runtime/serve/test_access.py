"""Who may reach the server: addresses, tokens, and the refusal of an open one."""

import errno
import socket
from pathlib import Path

import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.serve.access import MIN_TOKEN, TOKEN_VARIABLE, Access, parse_address, read_token

TOKEN = "t" * MIN_TOKEN
IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:8080", ("::1", 8080)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[fe80::1%br-lan.100]:1", ("fe80::1%br-lan.100", 1)),
        ("my-box.local:65535", ("my-box.local", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a",
        "a:b",
        "::1:80",
        "[::1]",
        "1:65536",
        "a b:1",
        "1:2:3",
        "²",
        "-1",
        "[a]b:1",
        "80\n",
    ],
)
def test_texts_that_are_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give a port or HOST:PORT, such as 8080 or \[::1\]:8080"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=IPV6), "localhost", "127.8.9.1"])
def test_loopback_needs_no_token(host: str) -> None:
    with Access(host, 0).listen() as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port), timeout=5):
            pass
        url = Access(host, 0).url(listener)
        assert url == f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        with pytest.raises(
            ConfigError,
            match=r"cannot listen at .*: Address already in use; give --http or --metrics a free port",
        ):
            Access(host, port).listen()
    Access(host, port).listen().close()  # free again at once


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=IPV6)])
def test_other_addresses_need_one(host: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no token; make one with: \(umask 077; python3 -c"):
        Access(host, 0).listen()
    Access(host, 0, TOKEN).listen().close()


@IPV6
def test_every_address_is_ipv4_too() -> None:
    access = Access("::", 0, TOKEN)
    with access.listen() as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()
        assert access.url(listener) == f"http://{socket.gethostname()}:{port}/"


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a..b", "x" * 300])
def test_hosts_that_are_not_here(host: str) -> None:
    with pytest.raises(ConfigError, match="address of this machine"):
        Access(host, 0, TOKEN).listen()


def test_a_machine_without_ipv6_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ConfigError, match=r"cannot listen at \[::1\]:80: Address family not supported"):
        Access("::1", 80).listen()


@pytest.mark.parametrize(
    "name", ["https://cameras.example", "cameras.example:443", "cameras.example/", "", "a b"]
)
def test_names_that_no_client_sends(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--allow-host is no host name: .*; give one without scheme and port"
    ):
        Access(names=(name,))


def test_the_names_of_the_machine_are_accepted_and_those_that_are_given() -> None:
    hosts = Access("My-Box", names=("cameras.example.org",)).hosts
    assert {
        "localhost",
        "127.0.0.1",
        "::1",
        "my-box",
        socket.gethostname().lower(),
        "cameras.example.org",
    } <= {*hosts}


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) == ""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o640)
    assert read_token(path) == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, "e" * 20)
    assert (read_token(None), read_token(path)) == ("e" * 20, TOKEN)
    for mode in (0o644, 0o602, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"other users can read or change {path}.*chmod 600 {path}"):
            read_token(path)
    with pytest.raises(ConfigError, match=r"cannot read the token of .*gone: No such file"):
        read_token(tmp_path / "gone")


@pytest.mark.parametrize(
    "token", [b"", b"t" * 15, b"t" * 1025, b"a" * 16 + b" b", "é".encode() * 16, b"\0" * 20]
)
def test_tokens_that_are_refused_are_not_repeated(tmp_path: Path, token: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(token)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not 16 to 1024 letters, digits and signs") as caught:
        read_token(path)
    assert token.decode() not in str(caught.value) or not token
