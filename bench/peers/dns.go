package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
)

// dnsOrder asks for names, in any order, for a while: over as many sockets as there are callers, each with as many questions open.
type dnsOrder struct {
	Address string   `json:"address"`
	Names   []string `json:"names"`
	Sockets int      `json:"sockets"`
	Open    int      `json:"open"`
	Seconds float64  `json:"seconds"`
}

type dnsAnswer struct {
	Answers int     `json:"answers"`
	Lost    int     `json:"lost"`
	Wrong   int     `json:"wrong"`
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
}

// dns is a crowd of callers of one DNS server.
func dns() error {
	return orders(func(order dnsOrder) error {
		questions := make([][]byte, len(order.Names))
		for i, name := range order.Names {
			questions[i] = question(name)
		}
		callers := make([]caller, order.Sockets)
		var wait sync.WaitGroup
		began := time.Now()
		until := began.Add(time.Duration(order.Seconds * float64(time.Second)))
		for i := range callers {
			connection, err := net.Dial("udp", order.Address)
			if err != nil {
				return err
			}
			defer connection.Close()
			callers[i] = caller{connection: ipv4.NewPacketConn(connection.(*net.UDPConn)), questions: questions, open: order.Open}
			wait.Go(func() { callers[i].call(until) })
		}
		wait.Wait()
		all := dnsAnswer{Seconds: time.Since(began).Seconds()}
		var took []time.Duration
		for i := range callers {
			if callers[i].err != nil {
				return callers[i].err
			}
			all.Answers += callers[i].answers
			all.Lost += callers[i].lost
			all.Wrong += callers[i].wrong
			took = append(took, callers[i].took...)
		}
		slices.Sort(took)
		if len(took) > 0 {
			all.P50 = float64(took[len(took)/2].Nanoseconds()) / 1000
			all.P99 = float64(took[len(took)*99/100].Nanoseconds()) / 1000
		}
		return say(all)
	})
}

// question is one for an A record, with id 0.
func question(name string) []byte {
	out := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range split(name) {
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, 0, 0, 1, 0, 1)
}

func split(name string) (labels []string) {
	for at := range len(name) + 1 {
		if at == len(name) || name[at] == '.' {
			start := 0
			for _, label := range labels {
				start += len(label) + 1
			}
			labels = append(labels, name[start:at])
		}
	}
	return labels
}

// caller has one socket. Its `open` questions go out together whenever there are places free; ids are the places.
type caller struct {
	connection           *ipv4.PacketConn
	questions            [][]byte
	open                 int
	answers, lost, wrong int
	took                 []time.Duration
	err                  error
}

func (c *caller) call(until time.Time) {
	sent := make([]time.Time, c.open)
	outgoing, incoming := make([]ipv4.Message, c.open), make([]ipv4.Message, c.open)
	for i := range c.open {
		outgoing[i].Buffers = [][]byte{make([]byte, 512)}
		incoming[i].Buffers = [][]byte{make([]byte, 512)}
	}
	free := make([]int, c.open)
	for i := range free {
		free[i] = i
	}
	for time.Now().Before(until) {
		for n, place := range free {
			buffer := outgoing[n].Buffers[0][:512]
			size := copy(buffer, c.questions[rand.IntN(len(c.questions))])
			binary.BigEndian.PutUint16(buffer, uint16(place))
			outgoing[n].Buffers[0] = buffer[:size]
			sent[place] = time.Now()
		}
		for at := 0; at < len(free); {
			n, err := c.connection.WriteBatch(outgoing[at:len(free)], 0)
			if err != nil {
				c.err = fmt.Errorf("asking: %w", err)
				return
			}
			at += n
		}
		free = free[:0]
		if err := c.connection.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			c.err = err
			return
		}
		n, err := c.connection.ReadBatch(incoming, 0)
		if err != nil { // nothing for a second: all are lost
			c.lost += c.open
			for i := range c.open {
				free = append(free, i)
			}
			continue
		}
		now := time.Now()
		for _, message := range incoming[:n] {
			answer := message.Buffers[0][:message.N]
			if message.N < 12 || answer[3]&15 != 0 || binary.BigEndian.Uint16(answer[6:]) == 0 {
				c.wrong++
			}
			place := int(binary.BigEndian.Uint16(answer))
			if place >= c.open {
				c.wrong++
				continue
			}
			c.answers++
			if c.answers%16 == 0 {
				c.took = append(c.took, now.Sub(sent[place]))
			}
			free = append(free, place)
		}
	}
}
