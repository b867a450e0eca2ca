package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	sotwPath  = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
	deltaPath = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

	// What Envoy advertises since 1.36.
	streamWindow, connectionWindow = 16 << 20, 24 << 20
)

// order is one of:
//
//	{"do": "connect", "address", "number", "delta", "type", "names", "node", "ca", "keep"}   all at once; answers when each has a response
//	{"do": "round"}        answers at once, and again when each proxy has had one more response
//	{"do": "count"}        how many responses came since the last count, whether or not a round was on
//	{"do": "reconnect", "number"}   ends and begins anew that many, the oldest first; answers when each has a response
//	{"do": "close"}        ends all connections
//
// keep is a file for the first response of one of them, node is a file with an encoded Node, to which an id is added; ca a file with the PEM of the server's authority.
type order struct {
	Do      string
	Address string
	Number  int
	Delta   bool
	Type    string
	Names   []string
	Node    string
	CA      string
	Keep    string
}

type proxies struct {
	order       order
	node        []byte
	credentials credentials.TransportCredentials
	next        int
	open        []*proxy
	round       atomic.Pointer[round]
	responses   atomic.Int64
	resources   atomic.Int64
	bytes       atomic.Int64
	failed      chan error
}

// round waits for one more response of each proxy.
type round struct {
	missing atomic.Int64
	at      []int64
	done    chan struct{}
}

type proxy struct {
	all     *proxies
	slot    int
	cancel  context.CancelFunc
	ready   chan struct{}
	ended   chan struct{}
	counted *round
}

func load() error {
	all := &proxies{failed: make(chan error, 1)}
	return orders(func(order order) error {
		switch order.Do {
		case "connect":
			return all.connect(order)
		case "round":
			return all.measure()
		case "count":
			return say(map[string]int64{
				"responses": all.responses.Swap(0), "resources": all.resources.Swap(0), "bytes": all.bytes.Swap(0),
			})
		case "reconnect":
			return all.reconnect(order.Number)
		case "close":
			all.close()
			return say(map[string]bool{"closed": true})
		}
		return fmt.Errorf("unknown order %q", order.Do)
	})
}

func (all *proxies) connect(order order) (err error) {
	all.order = order
	if all.node, err = os.ReadFile(order.Node); err != nil {
		return err
	}
	all.credentials = insecure.NewCredentials()
	if order.CA != "" {
		if all.credentials, err = credentials.NewClientTLSFromFile(order.CA, "localhost"); err != nil {
			return err
		}
	}
	began := monotonic()
	all.open = make([]*proxy, order.Number)
	for slot := range all.open {
		all.open[slot] = all.start(slot)
	}
	return all.configured(began, all.open)
}

func (all *proxies) reconnect(number int) error {
	began := monotonic()
	var anew []*proxy
	for range number {
		slot := all.next % len(all.open)
		all.next++
		all.open[slot].end()
		all.open[slot] = all.start(slot)
		anew = append(anew, all.open[slot])
	}
	return all.configured(began, anew)
}

func (all *proxies) configured(began int64, proxies []*proxy) error {
	deadline := time.After(patience)
	for _, proxy := range proxies {
		select {
		case <-proxy.ready:
		case err := <-all.failed:
			return err
		case <-deadline:
			return fmt.Errorf("not all of %d proxies had a response within %s", len(proxies), patience)
		}
	}
	return say(map[string]float64{"seconds": float64(monotonic()-began) / 1e9})
}

func (all *proxies) measure() error {
	round := &round{at: make([]int64, len(all.open)), done: make(chan struct{})}
	round.missing.Store(int64(len(all.open)))
	all.round.Store(round)
	if err := say(map[string]bool{"armed": true}); err != nil {
		return err
	}
	select {
	case <-round.done:
	case err := <-all.failed:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%d of %d proxies had no response within %s", round.missing.Load(), len(all.open), patience)
	}
	all.round.Store(nil)
	slices.Sort(round.at)
	return say(map[string]int64{
		"first": round.at[0], "median": round.at[(len(round.at)-1)/2], "last": round.at[len(round.at)-1],
	})
}

func (all *proxies) close() {
	for _, proxy := range all.open {
		proxy.cancel()
	}
	for _, proxy := range all.open {
		<-proxy.ended
	}
	all.open = nil
}

func (all *proxies) start(slot int) *proxy {
	ctx, cancel := context.WithCancel(context.Background())
	proxy := &proxy{all: all, slot: slot, cancel: cancel, ready: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(proxy.ended)
		if err := proxy.follow(ctx); err != nil && ctx.Err() == nil {
			select {
			case all.failed <- fmt.Errorf("proxy %d: %w", slot, err):
			default:
			}
		}
	}()
	return proxy
}

func (proxy *proxy) end() {
	proxy.cancel()
	<-proxy.ended
}

// follow acknowledges everything until ctx ends.
func (proxy *proxy) follow(ctx context.Context) error {
	all := proxy.all
	connection, err := grpc.NewClient(
		"passthrough:///"+all.order.Address,
		grpc.WithTransportCredentials(all.credentials),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(1<<30)),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	path := sotwPath
	if all.order.Delta {
		path = deltaPath
	}
	description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := connection.NewStream(ctx, description, path, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	// The last of two values of a field that is not repeated counts.
	node := field(slices.Clip(all.node), nodeID, fmt.Appendf(nil, "proxy-%d", proxy.slot))
	asked := subscription{all.order.Delta, node, all.order.Type, all.order.Names}
	message := asked.first()
	if err := stream.SendMsg(&message); err != nil {
		return err
	}
	asked.node = nil
	var received []byte
	for first := true; ; first = false {
		if err := stream.RecvMsg(&received); err != nil {
			return err
		}
		now := monotonic()
		found, err := parse(received)
		if err != nil {
			return err
		}
		ack := asked.ack(found, nil) // gRPC may keep it after SendMsg
		if err := stream.SendMsg(&ack); err != nil {
			return err
		}
		all.responses.Add(1)
		all.resources.Add(int64(found.resources))
		all.bytes.Add(int64(len(received)))
		if first {
			if all.order.Keep != "" && proxy.slot == 0 {
				if err := os.WriteFile(all.order.Keep, received, 0o600); err != nil {
					return err
				}
			}
			close(proxy.ready)
		}
		if round := all.round.Load(); round != nil && round != proxy.counted {
			proxy.counted = round
			round.at[proxy.slot] = now
			if round.missing.Add(-1) == 0 {
				close(round.done)
			}
		}
	}
}
