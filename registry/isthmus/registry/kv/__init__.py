"""The bridge's store: what must outlive it, and what its replicas must agree on.

One edge (`edge.Store`) with three implementations: a directory, Consul's keys, etcd. `opened.open_store` has the configured one.
"""
