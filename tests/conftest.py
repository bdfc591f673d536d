"""Which event loops the tests run on: what speaks to sockets is proven on both."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

ON_BOTH = {
    "test_binary_server.py",
    "test_client.py",
    "test_control.py",
    "test_http_connection.py",
    "test_link.py",
    "test_listener.py",
    "test_router.py",
    "test_router_links.py",
}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in ON_BOTH:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
