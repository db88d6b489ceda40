"""A person whose client is a process of its own: verbs go in as lines of JSON, and answers come out."""

import asyncio
import json
import os

from .people import Person
from .wait import DEADLINE

# The verbs whose arguments and results are the client's own.
AS_THEY_ARE = "logout start pause join leave say edit react remove read rename view deliveries"


class Failed(AssertionError):
    """The verb failed in the client; the text is the client's."""


def verbs(names):
    """Gives a class the verbs of these names, which go to the client as they are."""

    def add(kind):
        for name in names.split():
            setattr(kind, name, _verb(name))
        return kind

    return add


def _verb(name):
    async def do(self, *args):
        return await self._do(name, *args)

    return do


@verbs(AS_THEY_ARE)
class LinePerson(Person):
    """The kinds say how the process is started."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.process = None
        self.waiting = {}
        self.reader = None

    def command(self):
        """The program and its arguments, the settings among them."""
        raise NotImplementedError

    def environment(self):
        return {}

    @property
    def log_file(self):
        return self.folder / f"{self.kind}-{self.label}.log"

    async def _do(self, verb, *args, deadline=DEADLINE):
        if self.process is None:
            await self._begin()
        number = len(self.waiting)
        self.waiting[number] = answer = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps({"id": number, "verb": verb, "args": args}).encode() + b"\n")
        try:
            return await asyncio.wait_for(answer, deadline)
        except asyncio.TimeoutError:
            raise Failed(f"{self!r}: {verb} did not end within {deadline:.0f} s") from None

    async def _begin(self):
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 24,
                env={**os.environ, **self.environment()},
            )
        self.reader = asyncio.ensure_future(self._listen())

    async def _listen(self):
        async for line in self.process.stdout:
            answer = json.loads(line)
            waiting = self.waiting[answer["id"]]
            if waiting.done():
                continue
            if "error" in answer:
                waiting.set_exception(Failed(f"{self!r}: {answer['error']}"))
            else:
                waiting.set_result(answer["value"])
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_exception(Failed(f"{self!r}: the client's process ended"))

    async def close(self):
        if self.process:
            self.process.stdin.close()
            await self.process.wait()
            await self.reader
            self.process = None

    async def register(self):
        session = await self._do("register", self.name, self.password)
        assert session["user_id"] == self.user_id, session
        self._keep(session)

    async def login(self):
        self._keep(await self._do("login", self.name, self.password))

    def _keep(self, session):
        self.device_id, self.access_token = session["device_id"], session["access_token"]

    async def invite(self, room, person):
        await self._do("invite", room, person.user_id)

    async def profile_name(self, person):
        return await self._do("profile_name", person.user_id)

    async def typing(self, room, on=True):
        await self._do("typing", room, on)

    async def scroll_up(self, room, limit=20):
        return await self._do("scroll_up", room, limit)
