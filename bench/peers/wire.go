package main

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// raw is a gRPC codec that leaves messages as they are: a *[]byte.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	into := message.(*[]byte)
	length := data.Len()
	if cap(*into) < length {
		*into = make([]byte, length)
	}
	*into = (*into)[:length]
	data.CopyTo(*into)
	return nil
}

// Field numbers of DiscoveryRequest, DeltaDiscoveryRequest and their responses (envoy/service/discovery/v3/discovery.proto).
const (
	responseVersion   = 1
	responseResources = 2
	responseNonce     = 5

	requestVersion = 1
	requestNode    = 2
	requestNames   = 3
	requestType    = 4
	requestNonce   = 5

	deltaNode      = 1
	deltaType      = 2
	deltaSubscribe = 3
	deltaNonce     = 6

	nodeID = 1
)

// response is what a client has to know of a response, of either variant, to acknowledge it.
type response struct {
	version, nonce []byte
	resources      int
}

func parse(message []byte) (found response, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return found, protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return found, protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return found, protowire.ParseError(n)
		}
		message = message[n:]
		switch number {
		case responseVersion:
			found.version = value
		case responseResources:
			found.resources++
		case responseNonce:
			found.nonce = value
		}
	}
	if len(found.nonce) == 0 {
		return found, errors.New("a response without a nonce")
	}
	return found, nil
}

// subscription is what one proxy asks for, with the fields that its requests begin with.
type subscription struct {
	delta   bool
	node    []byte // an encoded Node
	typeURL string
	names   []string // none: the wildcard
}

func (s subscription) first() []byte {
	var out []byte
	if s.delta {
		out = field(out, deltaNode, s.node)
		out = field(out, deltaType, []byte(s.typeURL))
		for _, name := range s.names {
			out = field(out, deltaSubscribe, []byte(name))
		}
		return out
	}
	out = field(out, requestNode, s.node)
	for _, name := range s.names {
		out = field(out, requestNames, []byte(name))
	}
	return field(out, requestType, []byte(s.typeURL))
}

// ack acknowledges as Envoy does: the node is sent once, and the names with each SotW request.
func (s subscription) ack(to response, out []byte) []byte {
	if s.delta {
		return field(field(out, deltaType, []byte(s.typeURL)), deltaNonce, to.nonce)
	}
	out = field(out, requestVersion, to.version)
	for _, name := range s.names {
		out = field(out, requestNames, []byte(name))
	}
	return field(field(out, requestType, []byte(s.typeURL)), requestNonce, to.nonce)
}

func field(out []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), value)
}
