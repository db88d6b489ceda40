"""The stage of one scene: its servers and people, all of them gone when the scene ends."""

import contextlib
import os

import trustme

from .js_person import JsPerson
from .nio_person import NioPerson, OldNioPerson
from .sdk_person import SdkPerson
from .server import Ingle
from .synapse import Synapse

KINDS = {"nio": NioPerson, "nio-r0": OldNioPerson, "js": JsPerson, "sdk": SdkPerson}


class Stage:
    """`async with Stage(folder) as stage: …`; `folder` keeps logs and data until the next run."""

    def __init__(self, folder, tls=False):
        self.folder = folder
        self.tls = tls
        self.authority = trustme.CA()
        self.closing = contextlib.AsyncExitStack()

    async def __aenter__(self):
        await self.closing.__aenter__()
        return self

    async def __aexit__(self, *failure):
        return await self.closing.__aexit__(*failure)

    async def server(self, label="server", kind=None, **options):
        """Starts a server of a kind; it is Ingle unless the run is told to play against another."""
        kind = kind or {"ingle": Ingle, "synapse": Synapse}[os.environ["INGLE_TEST_AGAINST"]]
        server = kind(self.folder / label, self.authority, **options)
        self.closing.callback(server.stop)
        return await server.start()

    def person(self, name, server, kind, **more):
        person = KINDS[kind](name, server, tls=self.tls, folder=self.folder, **more)
        self.closing.push_async_callback(person.close)
        return person

    async def people(self, server, crypto=False, **kinds):
        """Registers people and starts their clients: `people(server, ann="nio", bob="js")`."""
        people = [self.person(name, server, kind, crypto=crypto) for name, kind in kinds.items()]
        for person in people:
            await person.register()
            await person.start()
        return people
