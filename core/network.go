package core

import (
	"context"
	"net"
)

type dialFunc = func(ctx context.Context, addr string) (net.Conn, error)

func (n Network) withDefaults() Network {
	if n.ListenPacket == nil {
		n.ListenPacket = func(addr string) (net.PacketConn, error) { return net.ListenPacket("udp", addr) }
	}
	if n.Listen == nil {
		n.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	if n.Dial == nil {
		var d net.Dialer
		n.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	return n
}
