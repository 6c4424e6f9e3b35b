"""Machines and kernel: the replication and recovery code that every world drives. Pure."""
