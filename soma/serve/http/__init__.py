"""HTTP in front of a service: routes, streams, limits and guards. Knows no slots, and no code of users."""

from __future__ import annotations
