"""What stands behind a gateway's binary server: frames come apart, their answers together again.

A frame is answered once its last command is, in the order of its commands, so clients do well to
put commands of one shard into one frame. The commands were decoded and narrowed by the server.
"""

from collections.abc import Callable
from functools import partial

from actors.binary_server import Reply
from actors.map_board import MapBoard
from engine.messages import Answer, GetMap, GetStatistics, Outgoing, Request, Statistics, Status
from engine.scope import Scope
from gateway.gathering import Gathering
from gateway.router import Router


class Forwarder:
    """A Handler that passes every command to a router, but for questions about the gateway, and
    about what it has heard."""

    def __init__(
        self, router: Router, board: MapBoard, statistics: Callable[[], Statistics]
    ) -> None:
        self._router = router
        self._board = board
        self._statistics = statistics

    def submit(self, request: Request, scope: Scope, reply: Reply) -> None:
        commands = request.commands
        frame = Gathering(
            len(commands), lambda answers: reply(Outgoing(request.request_id, answers))
        )
        traces = None if request.traces is None else {each.index: each for each in request.traces}
        for index, command in enumerate(commands):
            if isinstance(command, GetStatistics):
                frame.put(index, Answer(Status.OK, self._statistics()))
            elif isinstance(command, GetMap):
                self._board.ask(command, request.deadline_ms / 1_000, partial(frame.put, index))
            else:
                trace = None if traces is None else traces.get(index)
                put = partial(frame.put, index)
                self._router.forward(command, request.deadline_ms, put, trace)
