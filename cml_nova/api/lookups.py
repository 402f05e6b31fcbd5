"""Names of images, flavors and networks, looked up with the token of whoever asks, and remembered for a short time.

Who submits many jobs names the same few things in all of them; without this each job would cost two or three requests to the cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

from cml_nova import exception
from cml_nova.api import auth
from cml_nova.api.memory import Memory
from cml_nova.api.services import Catalog, catalog, services
from cml_nova.compute.catalog import Flavor, Image

T = TypeVar("T")


def recalling(use: Callable[[Catalog], T]) -> T:
    """Do something with a catalog that remembers ([api] lookup_cache_time).

    What is remembered may be out of date: nobody is refused because of it. Something that has gone since then passes here; it is the
    worker that finds it gone.

    :param use: is called once more, with what the cloud says now, when it refuses.
    """
    remembered = _catalog(recall=True)
    try:
        return use(remembered)
    except exception.BadRequest:
        if not remembered.recalled:
            raise
        return use(_catalog(recall=False))


def _catalog(*, recall: bool) -> RememberedCatalog:
    context = auth.current()
    # What one sees of a cloud depends on all of these.
    who = (context.user_id, context.project_id, tuple(sorted(context.roles)))
    return RememberedCatalog(catalog(), services().lookups, who, services().conf.api.lookup_cache_time, recall=recall)


class RememberedCatalog:
    """A catalog whose answers are remembered. An error is none, so it never comes from memory.

    :param who: whose catalog it is: nobody else gets to see its answers.
    :param seconds: for which an answer is remembered.
    :param recall: use what is remembered; False to ask the cloud for everything and remember that.
    """

    def __init__(self, catalog: Catalog, memory: Memory[Any], who: Hashable, seconds: float, *, recall: bool = True) -> None:
        self._catalog = catalog
        self._memory = memory
        self._who = who
        self._seconds = seconds
        self._recall = recall
        #: an answer came from memory
        self.recalled = False

    def images(self) -> Sequence[Image]:
        return cast(Sequence[Image], self._ask("images"))

    def get_image(self, name_or_id: str) -> Image:
        return cast(Image, self._ask("get_image", name_or_id))

    def find_image(self, framework: str, version: str | None = None) -> Image:
        return cast(Image, self._ask("find_image", framework, version))

    def flavors(self) -> Sequence[Flavor]:
        return cast(Sequence[Flavor], self._ask("flavors"))

    def get_network(self, name_or_id: str) -> str:
        return cast(str, self._ask("get_network", name_or_id))

    def has_project(self, project_id: str) -> bool | None:
        return self._catalog.has_project(project_id)

    def _ask(self, method: str, *arguments: str | None) -> Any:
        key = (self._who, method, arguments)
        known = self._memory.get(key) if self._recall else None
        if known is not None:
            self.recalled = True
            return known
        answer = getattr(self._catalog, method)(*arguments)
        self._memory.set(key, answer, self._seconds)
        return answer
