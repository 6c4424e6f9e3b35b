"""Recovery: failover test and live, planned move, clone, restore and reverse, as workflows."""
