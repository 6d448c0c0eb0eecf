"""The public verbs: `init`, `remote`, `get`, `put`, `wait`, … Everything above this layer uses them and nothing below."""

from __future__ import annotations

from soma.cluster.context import RuntimeContext as RuntimeContext
from soma.cluster.context import current_actor as current_actor
from soma.cluster.context import get_runtime_context as get_runtime_context
from soma.cluster.marking import remote as remote
from soma.cluster.placement_groups import PlacementGroup as PlacementGroup
from soma.cluster.placement_groups import get_placement_group as get_placement_group
from soma.cluster.placement_groups import placement_group as placement_group
from soma.cluster.placement_groups import placement_group_table as placement_group_table
from soma.cluster.placement_groups import remove_placement_group as remove_placement_group
from soma.cluster.session import Session as Session
from soma.cluster.session import init as init
from soma.cluster.session import is_initialized as is_initialized
from soma.cluster.session import shutdown as shutdown
from soma.cluster.verbs import attend as attend
from soma.cluster.verbs import available_resources as available_resources
from soma.cluster.verbs import cancel as cancel
from soma.cluster.verbs import cluster_resources as cluster_resources
from soma.cluster.verbs import exit_actor as exit_actor
from soma.cluster.verbs import get as get
from soma.cluster.verbs import get_actor as get_actor
from soma.cluster.verbs import kill as kill
from soma.cluster.verbs import machines as machines
from soma.cluster.verbs import nodes as nodes
from soma.cluster.verbs import on_event as on_event
from soma.cluster.verbs import publish as publish
from soma.cluster.verbs import put as put
from soma.cluster.verbs import scheduler as scheduler
from soma.cluster.verbs import status as status
from soma.cluster.verbs import tell as tell
from soma.cluster.verbs import wait as wait
