"""The verbs of placement groups in a process of a cluster: a part of `Runtime`. The head decides."""

from __future__ import annotations

import json
from typing import Any

from soma.actors.placement_groups import GroupSpec
from soma.actors.requests import Requests
from soma.actors.sharing import Port
from soma.transport import messages as m


class Grouping:
    """`GroupVerbs` of a process in a cluster."""

    port: Port
    requests: Requests
    namespace: str

    def check(self) -> None:
        """Raise if this process is not part of a cluster any more."""
        raise NotImplementedError

    def create_group(self, spec: GroupSpec) -> None:
        self.check()
        bundles = tuple(map(dict, spec.bundles))
        self.requests.request(lambda r: m.CreateGroup(r, self.port.me, spec.id, spec.name, self.namespace, bundles, spec.strategy,
                                                      spec.detached))

    def remove_group(self, id: str) -> None:
        self.check()
        self.requests.request(lambda r: m.RemoveGroup(r, self.port.me, id))

    def groups(self) -> list[dict[str, Any]]:
        self.check()
        found: list[dict[str, Any]] = json.loads(self.requests.request(lambda r: m.Ask(r, self.port.me, "groups")).fields["body"])
        return found
