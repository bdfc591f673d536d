"""A flash sale from start to end: one SKU, far more buyers than units, and the books afterwards.

    units ─► on the shelf        buyers ─► reserve one, commit it, or hear that it is sold out
    the sale is over ─► every buyer knows how it ended ─► audit: sold = units, no more and no less

A buyer is what a storefront would be: it reserves under an id of its own, commits at once, and if
an answer does not come, sends the same request again, which can have no second effect. Most buyers
come over the binary protocol, some over HTTP; all of them go through a gateway to the one actor
that owns the SKU.
"""

import asyncio
import contextlib
import secrets
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from engine import limits
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    Audit,
    AuditView,
    Command,
    Commit,
    GetStock,
    LineRequest,
    Receive,
    ReservationView,
    Reserve,
    Response,
    Status,
    StockView,
)
from gateway.http_types import Stock, stock_of
from gateway.link import Link
from gateway.place import Place

LOCATION: Final = "main"
HTTP_SHARE: Final = 10
"""Of so many connections, one is HTTP."""
CONNECT_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 30.0
"""For how long a buyer sends the same request again."""
RETRY_SECONDS: Final = 0.05
SHOW_SECONDS: Final = 0.25
DONE: Final = frozenset({Status.OK, Status.REPLAYED})
AGAIN: Final = frozenset({Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.OVERLOADED})
_CODES: Final = {status.name.lower(): status for status in Status}
_DONE = TypeVar("_DONE")


class DemoError(Exception):
    """The sale could not be held; the message is one line for the operator."""


class SaleReport(msgspec.Struct):
    """How it went. `passed`: everything agrees, to the unit."""

    passed: bool
    findings: list[str]
    units: int
    buyers: int
    sold: int
    refused: int
    unknown: int
    seconds: float
    operations_per_second: float
    p50_ms: float
    """Of a reserve, first request to last answer."""
    p99_ms: float
    stock: Stock
    drift: int


class Sale:
    """The sale while it runs."""

    def __init__(self, units: int, buyers: int) -> None:
        self.units = units
        self.buyers = buyers
        self.sku = f"sneaker-{secrets.token_hex(4)}"
        self.outcomes: Counter[str] = Counter()
        self.operations = 0
        self.latencies_ns = array("Q")
        self._started = time.monotonic()

    @property
    def sold(self) -> int:
        return self.outcomes["sold"]

    @property
    def refused(self) -> int:
        return self.outcomes["insufficient_stock"]

    @property
    def unknown(self) -> int:
        """Buyers who heard anything else, or nothing."""
        return self.served - self.sold - self.refused

    @property
    def served(self) -> int:
        return self.outcomes.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        return self.operations / self.seconds

    def latency_ms(self, share: float) -> float:
        values = sorted(self.latencies_ns)
        return values[int(share * (len(values) - 1))] / 1e6 if values else 0.0


# --- tills -----------------------------------------------------------------------------------


class Till(Protocol):
    """One connection; asks for one thing at a time. OUTCOME_UNKNOWN if it is cut off."""

    async def reserve(self, reservation_id: str) -> tuple[Status, int]:
        """What came of it, and the home of the reservation."""
        ...

    async def commit(self, reservation_id: str, home: int) -> Status: ...


class BinaryTill:
    """Over the binary protocol."""

    def __init__(self, place: Place, sku: str, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._up = asyncio.Event()
        self._connect_seconds = connect_seconds
        self._lines = [LineRequest(sku, 1)]
        self.link = Link(place.binary, place.key, self._changed)

    def _changed(self, link: Link) -> None:
        if link.up:
            self._up.set()
        else:
            self._up.clear()

    async def ask(self, command: Command) -> Answer:
        """Raises DemoError if there is nobody to ask."""
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._up.wait()
        except TimeoutError:
            raise DemoError(f"no engine answers at {self.link.address}") from None
        done: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()

        def settle(response: Response | None) -> None:
            if not done.done():  # whoever asked may have left
                done.set_result(response)

        self.link.send([command], limits.DEADLINE_MS_DEFAULT, settle)
        response = await done
        return Answer(Status.OUTCOME_UNKNOWN) if response is None else response.answers[0]

    async def reserve(self, reservation_id: str) -> tuple[Status, int]:
        answer = await self.ask(Reserve(reservation_id, self._lines))
        view = answer.body
        return answer.status, view.home if isinstance(view, ReservationView) else UNKNOWN_HOME

    async def commit(self, reservation_id: str, home: int) -> Status:
        return (await self.ask(Commit(reservation_id, home))).status


class HttpTill:
    """Over HTTP/1.1, kept alive."""

    def __init__(self, place: Place, sku: str) -> None:
        parts = urlsplit(place.url)
        self._address = parts.hostname or "", parts.port or 80
        self._sku = sku
        self._head = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n"
        if place.key:
            self._head += f"Authorization: Bearer {place.key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def reserve(self, reservation_id: str) -> tuple[Status, int]:
        lines = [{"sku": self._sku, "quantity": 1}]
        status, body = await self._post(
            "/v1/reservations", {"reservation_id": reservation_id, "lines": lines}
        )
        return status, body.home

    async def commit(self, reservation_id: str, home: int) -> Status:
        status, _ = await self._post(f"/v1/reservations/{reservation_id}/commit?home={home}", {})
        return status

    async def _post(self, path: str, body: object) -> tuple[Status, "_Body"]:
        payload = msgspec.json.encode(body)
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(payload)}\r\n\r\n"
        try:
            code, answer = await self._exchange(head.encode() + payload)
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return Status.OUTCOME_UNKNOWN, _Body()
        if code >= 300 and answer.code not in _CODES:
            raise DemoError(f"{path}: HTTP {code} {answer.code}")
        return Status.OK if code < 300 else _CODES[answer.code], answer

    async def _exchange(self, request: bytes) -> tuple[int, "_Body"]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        answer = msgspec.json.decode(await reader.readexactly(length), type=_Body)
        return int(head.split(" ", 2)[1]), answer

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Body(msgspec.Struct):
    """What a till needs of a reservation or a problem."""

    code: str = ""
    home: int = UNKNOWN_HOME


@asynccontextmanager
async def tills(place: Place, sku: str, count: int) -> AsyncIterator[list[Till]]:
    """So many connections, of both kinds."""
    made: list[Till] = []
    async with AsyncExitStack() as stack:
        for number in range(count):
            if number % HTTP_SHARE == HTTP_SHARE - 1:
                over_http = HttpTill(place, sku)
                stack.push_async_callback(over_http.close)
                made.append(over_http)
            else:
                binary = BinaryTill(place, sku)
                binary.link.start()
                stack.push_async_callback(binary.link.close)
                made.append(binary)
        yield made


# --- the sale --------------------------------------------------------------------------------


async def hold(
    place: Place,
    units: int,
    buyers: int,
    connections: int,
    show: Callable[[Sale], None],
    *,
    connect_seconds: float = CONNECT_SECONDS,
) -> SaleReport:
    """Stock the units, let everybody buy, audit. Raises DemoError if there is no engine."""
    sale = Sale(units, buyers)
    async with tills(place, sale.sku, connections) as opened:
        clerk = BinaryTill(place, sale.sku, connect_seconds)
        clerk.link.start()
        try:
            received = await clerk.ask(Receive(sale.sku, LOCATION, units, key=sale.sku))
            if received.status not in DONE:
                raise DemoError(f"the units could not be stocked: {received.status.name.lower()}")
            await _sell(sale, opened, show)
            return await _close_the_books(sale, clerk)
        finally:
            await clerk.link.close()


async def _sell(sale: Sale, opened: list[Till], show: Callable[[Sale], None]) -> None:
    numbers = iter(range(sale.buyers))
    shows = asyncio.create_task(_keep_showing(sale, show))
    served = [asyncio.create_task(_serve(till, sale, numbers)) for till in opened]
    try:
        await asyncio.gather(*served)
    finally:
        for task in (shows, *served):
            task.cancel()
        await asyncio.gather(shows, *served, return_exceptions=True)
    show(sale)


async def _keep_showing(sale: Sale, show: Callable[[Sale], None]) -> None:
    while True:
        await asyncio.sleep(SHOW_SECONDS)
        show(sale)


async def _serve(till: Till, sale: Sale, numbers: Iterator[int]) -> None:
    """One buyer after the other, as long as there are any."""
    for number in numbers:
        sale.outcomes[await _buy(till, sale, f"{sale.sku}-{number:08}")] += 1


async def _buy(till: Till, sale: Sale, reservation_id: str) -> str:
    """What the buyer hears in the end."""
    asked = time.monotonic_ns()
    (status, home) = await _persist(
        lambda: till.reserve(reservation_id), lambda answer: answer[0] in AGAIN
    )
    sale.latencies_ns.append(time.monotonic_ns() - asked)
    sale.operations += 1
    if status not in DONE:
        return status.name.lower()
    status = await _persist(
        lambda: till.commit(reservation_id, home), lambda answer: answer in AGAIN
    )
    sale.operations += 1
    return "sold" if status in DONE else f"commit: {status.name.lower()}"


async def _persist(ask: Callable[[], Awaitable[_DONE]], is_open: Callable[[_DONE], bool]) -> _DONE:
    """Send the same request until it is certain what came of it, or patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = await ask()
        if not is_open(answer) or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(RETRY_SECONDS)


async def _close_the_books(sale: Sale, clerk: BinaryTill) -> SaleReport:
    seconds, rate = sale.seconds, sale.rate
    assert clerk.link.hello is not None
    total = clerk.link.hello.shards + clerk.link.hello.dedicated
    audits = [await clerk.ask(Audit(shard, quick=True)) for shard in range(total)]
    stock = (await clerk.ask(GetStock(sale.sku))).body
    if not isinstance(stock, StockView):
        raise DemoError("the stock cannot be read after the sale")
    views = [answer.body for answer in audits if isinstance(answer.body, AuditView)]
    findings = [finding for view in views for finding in view.findings]
    drift = sum(abs(view.drift) for view in views)
    expected = min(sale.units, sale.buyers)
    for what, found, wanted in (
        ("buyers who bought", sale.sold, expected),
        ("buyers who were refused", sale.refused, sale.buyers - expected),
        ("buyers who do not know", sale.unknown, 0),
        ("units on hand", stock.on_hand, sale.units),
        ("units reserved", stock.reserved, 0),
        ("units allocated", stock.allocated, expected),
        ("shards audited", len(views), len(audits)),
        ("units of drift", drift, 0),
    ):
        if found != wanted:
            findings.append(f"{what}: {found:,} instead of {wanted:,}")
    if sale.unknown:
        findings.append(f"what buyers heard: {dict(sale.outcomes)}")
    return SaleReport(
        passed=not findings,
        findings=findings,
        units=sale.units,
        buyers=sale.buyers,
        sold=sale.sold,
        refused=sale.refused,
        unknown=sale.unknown,
        seconds=round(seconds, 3),
        operations_per_second=round(rate, 1),
        p50_ms=sale.latency_ms(0.5),
        p99_ms=sale.latency_ms(0.99),
        stock=stock_of(stock),
        drift=drift,
    )
