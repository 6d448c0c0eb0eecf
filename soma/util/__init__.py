"""Under Ray's names: `soma.util.scheduling_strategies`, `soma.util.placement_group`."""
