"""Simulation and verification test-bed for continuous-replication disaster recovery."""
