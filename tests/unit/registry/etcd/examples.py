"""Keys and values as the frameworks write them."""

from __future__ import annotations

import json

from isthmus.registry.etcd.layouts import Endpoint, Found

EXAMPLES: list[tuple[str, str, str, str, Found]] = [
    (
        "grpc",
        "/services/",
        "web/10.0.0.1:8080",
        '{"Op":0,"Addr":"10.0.0.1:8080","Metadata":{"weight":3,"zone":"a","canary":true,"nested":{}}}',
        Found(
            "web",
            (Endpoint("10.0.0.1", 8080),),
            labels={"weight": "3", "zone": "a", "canary": "true"},
            weight=3,
        ),
    ),
    (
        "grpc",
        "/services/web/",
        "10.0.0.1:8080",
        '{"Op":0,"Addr":"[fd00::1]:8080","Metadata":null}',
        Found("web", (Endpoint("fd00::1", 8080),)),
    ),
    (
        "go-micro",
        "/micro/registry/",
        "go.micro.srv.greeter/go.micro.srv.greeter-77",
        json.dumps(
            {
                "name": "go.micro.srv.greeter",
                "version": "latest",
                "metadata": None,
                "endpoints": [{"name": "Say.Hello", "request": {"name": "Request"}, "metadata": {}}],
                "nodes": [
                    {
                        "id": "go.micro.srv.greeter-77",
                        "address": "10.0.0.1:40001",
                        "metadata": {"protocol": "grpc", "transport": "grpc", "registry": "etcd"},
                    }
                ],
            }
        ),
        Found(
            "go.micro.srv.greeter",
            (Endpoint("10.0.0.1", 40001, "grpc"),),
            labels={"protocol": "grpc", "transport": "grpc", "registry": "etcd", "version": "latest"},
        ),
    ),
    (
        "go-kratos",
        "/microservices/",
        "helloworld/0c8a",
        json.dumps(
            {
                "id": "0c8a",
                "name": "helloworld",
                "version": "v1",
                "metadata": {"zone": "eu-1"},
                "endpoints": ["http://10.0.0.1:8000?isSecure=false", "grpc://10.0.0.1:9000?isSecure=true"],
            }
        ),
        Found(
            "helloworld",
            (Endpoint("10.0.0.1", 8000, "http"), Endpoint("10.0.0.1", 9000, "tls")),
            labels={"zone": "eu-1", "version": "v1"},
        ),
    ),
    ("go-zero", "", "user.rpc/7587862096", "10.0.0.1:8081", Found("user.rpc", (Endpoint("10.0.0.1", 8081),))),
    ("go-zero", "user.rpc", "7587862096", "10.0.0.1:8081", Found("user.rpc", (Endpoint("10.0.0.1", 8081),))),
    (
        "kitex",
        "kitex/registry-etcd/",
        "pay/10.0.0.1:8888",
        '{"network":"tcp","address":"10.0.0.1:8888","weight":0,"tags":{"idc":"hl"}}',
        Found("pay", (Endpoint("10.0.0.1", 8888),), labels={"idc": "hl"}, weight=10),
    ),
    (
        "kitex",
        "kitex/registry-etcd/",
        "pay/x",
        '{"network":"unix","address":"/run/pay.sock","weight":20,"tags":null}',
        Found("pay", (Endpoint("unix:///run/pay.sock"),), weight=20),
    ),
    (
        "skydns",
        "/skydns/local/cluster/",
        "production/rails/1",
        '{"host":"10.0.0.1","port":8080,"weight":20,"ttl":60,"priority":10}',
        Found(
            "rails.production",
            (Endpoint("10.0.0.1", 8080),),
            labels={"priority": "10"},
            weight=20,
            hostname="rails.production.cluster.local",
        ),
    ),
    (
        "skydns",
        "/skydns/",
        "local/db",
        '{"host":"db.example.com"}',
        Found("local", (Endpoint("db.example.com"),), hostname="local"),
    ),
    (
        "registrator",
        "/services/",
        "redis/host-1:redis-1:6379",
        "10.0.0.1:32768",
        Found("redis", (Endpoint("10.0.0.1", 32768),)),
    ),
]
"""Layout, prefix, what follows it in the key, the value, and what is found."""
