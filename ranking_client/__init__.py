"""What an orchestrator imports to rank a user's candidates.

    async with RankingClient("context:7001", "crossing:7002", load_history=load) as client:
        scores = await client.score("42", item_ids)
        best = item_ids[scores.by_task["watch"].argsort()[::-1][:10]]

Routing, as it behaves with grpcio 1.85 (`tests/ranking_client`, `tests/integration`):

* `ring_hash`, gRPC's own policy with a hash of the user as request header, is the default for one
  name that resolves to several pods: the channel itself follows the name. A user's requests reach
  one pod, and all channels agree on it. When a pod is killed only its calls in flight fail, and are
  repeated; its users come back with it. It needs an experimental environment variable, which the
  client sets for the process. A new pod moves more users than it takes over: every pod's part of
  the ring shifts. A frozen pod's users meet their deadline until the platform restarts it, because
  gRPC's keepalive does not notice a stopped process.
* `rendezvous`, highest-random-weight hashing over one channel a pod (Thaler and Ravishankar, 1998),
  is the default for a list of pods, and for a name where gRPC refuses ring_hash. It goes by the
  addresses as given, so a pod that restarts under its name keeps its users; a new pod moves only
  the users it takes over; a repeat surely goes to another pod. Three calls in a row without an
  answer, each given 20 ms or more, move a pod's users too.
"""

from ranking_client.client import LoadHistory, RankingClient
from ranking_client.errors import (
    NoAnswerError,
    OutcomeUnknownError,
    RemoteError,
    ServiceUnavailableError,
)
from ranking_client.fake import FakeRankingClient
from ranking_client.records import (
    Actions,
    ContextDescription,
    ModelDescription,
    Prefetched,
    Receipt,
    Scores,
)
from ranking_client.routing import Affinity

__all__ = [
    "Actions",
    "Affinity",
    "ContextDescription",
    "FakeRankingClient",
    "LoadHistory",
    "ModelDescription",
    "NoAnswerError",
    "OutcomeUnknownError",
    "Prefetched",
    "RankingClient",
    "Receipt",
    "RemoteError",
    "Scores",
    "ServiceUnavailableError",
]
