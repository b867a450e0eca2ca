"""Messages of etcd's v3 API; `generate.py` makes rpc_pb2 from rpc.proto."""
