// Command push is the other half of `python -m bench push`: the proxies that are pushed to, and the servers that Isthmus is
// compared with; and the callers of `python -m bench agent`. Each takes its orders as lines of JSON on standard input, and answers each with lines of JSON on standard output.
//
//	push dns                                        many callers of a DNS server
//	push load                                       many proxies, each with a connection and a stream of its own
//	push serve CACHE RESOURCES ADDRESS [CERT KEY]   go-control-plane, CACHE being linear, snapshot or snapshot-node
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "load":
		return load()
	case len(arguments) == 1 && arguments[0] == "dns":
		return dns()
	case len(arguments) > 3 && arguments[0] == "serve":
		return serve(arguments[1], arguments[2], arguments[3], arguments[4:])
	case len(arguments) == 1 && arguments[0] == "version":
		fmt.Println("push")
		return nil
	}
	return fmt.Errorf("expected `dns`, `load`, `version` or `serve CACHE RESOURCES ADDRESS [CERT KEY]`, not %q", arguments)
}

// orders calls do with each line that comes in, until there are no more.
func orders[T any](do func(T) error) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var order T
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			return fmt.Errorf("%.200q: %w", lines.Text(), err)
		}
		if err := do(order); err != nil {
			return err
		}
	}
	return lines.Err()
}

func say(answer any) error { return json.NewEncoder(os.Stdout).Encode(answer) }

// monotonic is the clock that all processes of a machine share, and that Python calls time.monotonic_ns.
func monotonic() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

const patience = 120 * time.Second
