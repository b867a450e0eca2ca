package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	// Resources hold messages of these types in google.protobuf.Any.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

// change is the one order that a server takes: {"change": n} makes the n-th change of one endpoint or cluster, and pushes it.
type change struct{ Change int }

// served is a cache of go-control-plane, how one resource of it is replaced, and what it wants to know of the streams.
type served struct {
	cache     cache.Cache
	replace   func(name string, to types.Resource) error
	callbacks server.Callbacks
}

func serve(kind, resources, address string, keys []string) error {
	typeURL, all, err := read(resources)
	if err != nil {
		return err
	}
	from, err := build(kind, typeURL, all)
	if err != nil {
		return err
	}
	// Defaults, but for the number of streams and for pings, which Envoy may send as often as Isthmus lets it.
	options := []grpc.ServerOption{grpc.MaxConcurrentStreams(1 << 31)}
	if len(keys) == 2 {
		tls, err := credentials.NewServerTLSFromFile(keys[0], keys[1])
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(tls))
	}
	grpcServer := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), from.cache, from.callbacks))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go grpcServer.Serve(listener)
	if err := say(map[string]string{"address": listener.Addr().String()}); err != nil {
		return err
	}
	// The first one: the shape is named for its endpoints, or its clusters.
	name := cache.GetResourceName(all[0])
	return orders(func(order change) error {
		if err := from.replace(name, changed(all[0], order.Change)); err != nil {
			return err
		}
		return say(map[string]int{"changed": order.Change})
	})
}

// read gets resources of one type from a file that holds a DiscoveryResponse.
func read(path string) (string, []types.Resource, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return "", nil, err
	}
	var found discovery.DiscoveryResponse
	if err := proto.Unmarshal(encoded, &found); err != nil {
		return "", nil, err
	}
	var all []types.Resource
	for _, packed := range found.Resources {
		message, err := packed.UnmarshalNew()
		if err != nil {
			return "", nil, err
		}
		all = append(all, message)
	}
	if len(all) == 0 {
		return "", nil, fmt.Errorf("%s: no resources", path)
	}
	return found.TypeUrl, all, nil
}

func build(kind, typeURL resource.Type, all []types.Resource) (served, error) {
	switch kind {
	case "linear":
		named := map[string]types.Resource{}
		for _, one := range all {
			named[cache.GetResourceName(one)] = one
		}
		linear := cache.NewLinearCache(typeURL, cache.WithInitialResources(named))
		return served{linear, linear.UpdateResource, nil}, nil
	case "snapshot":
		return snapshots(typeURL, all, shared{})
	case "snapshot-node":
		return snapshots(typeURL, all, cache.IDHash{})
	}
	return served{}, fmt.Errorf("unknown cache %q: expected linear, snapshot or snapshot-node", kind)
}

// shared takes all nodes for one.
type shared struct{}

func (shared) ID(*core.Node) string { return "" }

// snapshots sets a whole new snapshot at each change, as its documentation wants it, for every node that has come so far.
func snapshots(typeURL resource.Type, all []types.Resource, hash cache.NodeHash) (served, error) {
	snapshots := cache.NewSnapshotCache(false, hash, nil)
	index := map[string]int{}
	for i, one := range all {
		index[cache.GetResourceName(one)] = i
	}
	var lock sync.Mutex
	nodes := map[string]bool{}
	version := 1
	set := func(node string) error {
		snapshot, err := cache.NewSnapshot(strconv.Itoa(version), map[resource.Type][]types.Resource{typeURL: all})
		if err != nil {
			return err
		}
		return snapshots.SetSnapshot(context.Background(), node, snapshot)
	}
	came := func(node *core.Node) error {
		lock.Lock()
		defer lock.Unlock()
		id := hash.ID(node)
		if nodes[id] {
			return nil
		}
		nodes[id] = true
		return set(id)
	}
	replace := func(name string, to types.Resource) error {
		lock.Lock()
		defer lock.Unlock()
		all[index[name]] = to
		version++
		for node := range nodes {
			if err := set(node); err != nil {
				return err
			}
		}
		return nil
	}
	return served{snapshots, replace, server.CallbackFuncs{
		StreamRequestFunc:      func(_ int64, r *discovery.DiscoveryRequest) error { return came(r.Node) },
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error { return came(r.Node) },
	}}, nil
}

// changed is a copy of a resource with one thing in it changed; all else is shared.
func changed(original types.Resource, number int) types.Resource {
	switch original := original.(type) {
	case *endpoint.ClusterLoadAssignment:
		locality := original.Endpoints[0]
		first := locality.LbEndpoints[0]
		endpoints := append([]*endpoint.LbEndpoint{{
			HostIdentifier:      first.HostIdentifier,
			HealthStatus:        first.HealthStatus,
			Metadata:            first.Metadata,
			LoadBalancingWeight: wrapperspb.UInt32(uint32(100 + number%100)),
		}}, locality.LbEndpoints[1:]...)
		localities := append([]*endpoint.LocalityLbEndpoints{{
			Locality:            locality.Locality,
			LbEndpoints:         endpoints,
			LoadBalancingWeight: wrapperspb.UInt32(locality.LoadBalancingWeight.GetValue() + uint32(number%100)),
		}}, original.Endpoints[1:]...)
		return &endpoint.ClusterLoadAssignment{
			ClusterName: original.ClusterName, Endpoints: localities, Policy: original.Policy,
		}
	case *cluster.Cluster:
		copied := proto.CloneOf(original)
		copied.ConnectTimeout = durationpb.New(copied.ConnectTimeout.AsDuration())
		copied.ConnectTimeout.Nanos = int32(1 + number%100)
		return copied
	}
	panic(fmt.Sprintf("%T: expected a ClusterLoadAssignment or a Cluster", original))
}
