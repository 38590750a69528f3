// Command minagent is the smallest agent that there can be: one mTLS QUIC connection, one stream, a heartbeat at an
// interval. What the real agent takes is compared with what this one takes.
//
//	minagent ADDRESS DIRECTORY INTERVAL
//
// DIRECTORY holds the credentials. When the first heartbeat has been answered it prints the line "up". It runs until it
// is killed or the connection breaks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/internal/floor/beat"
	"github.com/holdfast-edge/holdfast/internal/floor/pki"
)

// connectionTimeout outlasts several of the usual intervals.
const connectionTimeout = 5 * time.Minute

var errUsage = errors.New("usage: minagent ADDRESS DIRECTORY INTERVAL")

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "minagent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errUsage
	}
	interval, err := time.ParseDuration(args[2])
	if err != nil || interval <= 0 {
		return fmt.Errorf("interval %q: %w", args[2], errUsage)
	}
	stream, err := connect(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	return beatForever(stream, interval)
}

// connect opens the one stream.
func connect(ctx context.Context, address, dir string) (*quic.Stream, error) {
	tlsConf, err := pki.ReadDevice(dir)
	if err != nil {
		return nil, err
	}
	server, err := net.ResolveUDPAddr("udp4", address)
	if err != nil {
		return nil, fmt.Errorf("server's address: %w", err)
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("open udp socket: %w", err)
	}
	transport := &quic.Transport{Conn: udp}
	conn, err := transport.Dial(ctx, server, tlsConf, &quic.Config{
		MaxIdleTimeout: connectionTimeout, MaxIncomingStreams: 8, MaxIncomingUniStreams: -1,
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return stream, nil
}

// beatForever returns only with an error.
func beatForever(stream io.ReadWriter, interval time.Duration) error {
	answers := beat.NewReader(stream)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for seq := uint32(1); ; seq++ {
		if err := exchange(stream, answers, seq); err != nil {
			return fmt.Errorf("heartbeat %d: %w", seq, err)
		}
		if seq == 1 {
			if err := settle(); err != nil {
				return err
			}
		}
		<-tick.C
	}
}

// settle gives back what the start has taken and says that the agent is up.
func settle() error {
	debug.FreeOSMemory()
	if _, err := os.Stdout.WriteString("up\n"); err != nil {
		return fmt.Errorf("say that the agent is up: %w", err)
	}
	return nil
}

func exchange(stream io.Writer, answers *beat.Reader, seq uint32) error {
	h := beat.New(seq)
	frame, err := h.AppendFrame(nil)
	if err != nil {
		return err
	}
	if _, err := stream.Write(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	message, err := answers.Next()
	if err != nil {
		return fmt.Errorf("await answer: %w", err)
	}
	_, err = beat.ParseAnswer(message)
	return err
}
