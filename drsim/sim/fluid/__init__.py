"""Fluid: rates per tick instead of writes, for a thousand VMs and a month (DESIGN 3). No core, no events."""
