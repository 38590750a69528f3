package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// packetHead is what UDP and IPv4 add to a datagram, in bytes.
const packetHead = 28

// traffic is what went through a gateway's sockets in both directions since its start, in bytes on the wire without those of the
// local network.
type traffic struct {
	Uplink, Agents         int64
	UplinkPackets, Packets int64
}

// meter counts what goes through a gateway's two sockets.
type meter struct {
	up, down counter
}

// packet opens a socket of the gateway that is counted.
func (m *meter) packet(listen string) (net.PacketConn, error) {
	pc, err := net.ListenPacket("udp", listen)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	if listen == "" {
		return countedConn{pc, &m.up}, nil
	}
	return countedConn{pc, &m.down}, nil
}

func (m *meter) read() traffic {
	return traffic{Uplink: m.up.bytes.Load(), Agents: m.down.bytes.Load(), UplinkPackets: m.up.packets.Load(), Packets: m.down.packets.Load()}
}

type counter struct{ bytes, packets atomic.Int64 }

func (c *counter) add(n int) {
	c.packets.Add(1)
	c.bytes.Add(int64(n + packetHead))
}

// countedConn is a socket without what quic-go does faster on the machine's own: a packet is a datagram.
type countedConn struct {
	net.PacketConn

	n *counter
}

func (c countedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if err == nil {
		c.n.add(n)
	}
	return n, from, err //nolint:wrapcheck // as if nothing were in between
}

func (c countedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := c.PacketConn.WriteTo(b, to)
	if err == nil {
		c.n.add(n)
	}
	return n, err //nolint:wrapcheck // as above
}

// wan measures what devices at rest cost on the uplink of their gateway, against what they send and get themselves, which is what would
// go over the uplink if each of them had its own connection to the core.
func wan(ctx context.Context, b *bench) (err error) {
	if err := b.world.restartCounting(ctx); err != nil {
		return err
	}
	fleet, err := b.world.startDevices(ctx, roleFleet, proc.AnyCPU, 0, b.size.calm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	if err := fleet.Ask(ctx, commandStart+" "+loadCalm+" "+b.size.calmEvery.String(), nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Ask(ctx, commandStop, nil)) }()
	if err := rest(ctx, b.size.calmEvery); err != nil {
		return err
	}
	var before, after traffic
	var was, is counts
	if err := errors.Join(b.world.gateway.Ask(ctx, commandTraffic, &before), fleet.Ask(ctx, commandSum, &was)); err != nil {
		return err
	}
	if err := rest(ctx, b.size.calmWindow); err != nil {
		return err
	}
	if err := errors.Join(b.world.gateway.Ask(ctx, commandTraffic, &after), fleet.Ask(ctx, commandSum, &is)); err != nil {
		return err
	}
	hours := float64(b.size.calm) * b.size.calmWindow.Hours()
	own, low := float64(after.Uplink-before.Uplink)/hours, float64(after.Agents-before.Agents)/hours
	b.add("wan.beats", float64(is.Completed-was.Completed), "", fmt.Sprintf("heartbeats of %d devices in %v, one each %v; %d failed", b.size.calm, b.size.calmWindow, b.size.calmEvery, is.Failed-was.Failed))
	b.add("wan.direct_packets", float64(after.Packets-before.Packets)/hours, "", "packets per device and hour between gateway and devices, both directions")
	b.add("wan.packets", float64(after.UplinkPackets-before.UplinkPackets)/hours, "", "packets per device and hour on the uplink, both directions")
	b.judge(verdict{
		name: "WAN bytes per device and hour", target: "at most 2 % of what devices would send directly", unit: "B", floor: low, own: own, ratio: own / low, limit: 0.02,
		note: fmt.Sprintf("%d devices that beat each %v, UDP and IPv4 headers included", b.size.calm, b.size.calmEvery),
	})
	return nil
}
