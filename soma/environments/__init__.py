"""Environments made by uv, and files that travel: what an actor or a job may ask for besides its code."""

from __future__ import annotations

from soma.environments.archive import Archive as Archive
from soma.environments.archive import ArchiveLimits as ArchiveLimits
from soma.environments.archive import checked_path as checked_path
from soma.environments.archive import is_inside as is_inside
from soma.environments.archive import pack as pack
from soma.environments.archive import pack_files as pack_files
from soma.environments.archive import unpack as unpack
from soma.environments.environments import Environment as Environment
from soma.environments.environments import Environments as Environments
from soma.environments.leases import Lease as Lease
from soma.environments.leases import hold as hold
from soma.environments.leases import private_directory as private_directory
from soma.environments.preparing import Prepared as Prepared
from soma.environments.preparing import check as check
from soma.environments.preparing import check_variables as check_variables
from soma.environments.preparing import portable as portable
from soma.environments.preparing import prepare as prepare
from soma.environments.shelf import used_bytes as used_bytes
from soma.environments.spec import EnvironmentSpec as EnvironmentSpec
from soma.environments.spec import read_requirements as read_requirements
from soma.errors import ArchiveError as ArchiveError
from soma.errors import EnvironmentBuildError as EnvironmentBuildError
