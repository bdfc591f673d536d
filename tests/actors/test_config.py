"""Settings: what cannot be made, what it says instead, and that bytes carry all of it."""

import pytest

from actors.config import Settings, SettingsError


def test_defaults_serve_this_machine_only() -> None:
    """Without a word from the operator, two hosts, sixteen shards, loopback and every fsync."""
    settings = Settings()

    assert (2, 8, 1, "always") == (
        settings.hosts,
        settings.shards,
        settings.gateways,
        settings.fsync,
    )
    assert settings.is_loopback


def test_bytes_carry_everything() -> None:
    """A process that is started from the encoded settings has the same ones."""
    redis = ("redis://r:1/0", "unix:///s")
    settings = Settings(data_dir="/d", redis=redis, shards=7, hosts=3, require_keys=True)

    assert settings == Settings.decode(settings.encode())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shards": 0}, "--shards is 0; 1 to 4096 is possible"),
        ({"port": 70_000}, "--port is 70000; 0 to 65535 is possible"),
        ({"hosts": 9}, "--hosts is 9, more than the 8 shards"),
        ({"port": 9, "binary_port": 9}, "--port and --binary-port are both 9"),
        ({"fsync": "no"}, "--fsync is 'no'; it may be always or everysec"),
        ({"log_level": "loud"}, "--log-level is 'loud'; it may be debug or info or warning"),
        ({"bind": "localhost"}, "--bind is 'localhost'; an IP address is expected"),
        ({"redis": ("r:6379",)}, "--redis is 'r:6379'; redis://host:port/0 is expected"),
        ({"redis": ("unix:///s", "unix:///s")}, "--redis names the same server twice"),
        (
            {"redis": ("unix:///s", "unix:///t"), "shards": 1, "hosts": 1},
            "--redis names 2 servers for 1 shards",
        ),
        ({"data_dir": ""}, "--data-dir is empty"),
        ({"address": "192.0.2.10:6379"}, "--address needs --redis"),
        ({"machines": 2}, "--machines needs --address"),
        ({"maxmemory_bytes": 1}, "--maxmemory is 1;"),
        ({"finished_window_us": 1}, "--finished-window is 1;"),
        ({"keys_window_us": 10**6}, "windows must grow in this order: finished, keys, returns"),
    ],
)
def test_wrong_settings_cannot_be_made(wrong: dict[str, object], said: str) -> None:
    """Each rule refuses in one line that names the flag."""
    with pytest.raises(SettingsError) as caught:
        Settings(**wrong)  # type: ignore[arg-type] # wrong on purpose

    assert str(caught.value).startswith(said)


def test_both_ports_may_be_any() -> None:
    """Port 0 means any free port, twice."""
    assert (0, 0) == (Settings(port=0, binary_port=0).port, Settings(port=0, binary_port=0).port)


@pytest.mark.parametrize(
    ("bind", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)]
)
def test_what_is_loopback(bind: str, loopback: bool) -> None:
    """Addresses that other machines reach are told from those that they do not."""
    assert loopback == Settings(bind=bind).is_loopback
