package mesh

import (
	"errors"
	"math"
	"net"
	"testing"

	"github.com/hashicorp/memberlist"

	"github.com/holdfast-edge/holdfast/wire"
)

func FuzzMeta(f *testing.F) {
	full, err := wire.Marshal(wire.GossipMeta{Capability: 1, Uplink: true, Sessions: 99, Busy: 100, MirrorEpoch: 1, Mirror: 7, ListEpoch: 1, List: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte{0xa0})
	f.Add([]byte("\xa1\x03\x1b\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMeta(b)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) || m != (wire.GossipMeta{}) {
				t.Fatalf("%+v, %v", m, err)
			}
			return
		}
		if m.Busy > 100 || len(b) > wire.MaxMeta {
			t.Fatalf("%d bytes: %+v", len(b), m)
		}
		again, err := wire.Marshal(m)
		if err != nil || len(again) > wire.MaxMeta {
			t.Fatalf("%d bytes again, %v", len(again), err)
		}
		if back, err := parseMeta(again); err != nil || back != m {
			t.Fatalf("%+v is %+v again, %v", m, back, err)
		}
	})
}

// Whatever a holder of the key seals is let through or not, and nothing worse; what was not sealed never is.
func FuzzSieve(f *testing.F) {
	f.Add([]byte{msgCompound, 2, 0, 1, 0, 1, msgAlive, msgAck})
	f.Add([]byte{msgCRC, 1, 2, 3, 4, msgPing, 0x81, 0xa1, 'x', 1})
	f.Add([]byte{msgPushPull, 0x81, 0xa5, 'N', 'o', 'd', 'e', 's', 64})
	f.Add([]byte{msgPushPull, 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{msgIndirectPing, 0xc6, 0xff, 0xff, 0xff, 0xff})
	s := testSieve(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := s.packet("gw-4", s.sealPacket(b)); err != nil && !errors.Is(err, errSieved) {
			t.Fatal(err)
		}
		sealed := s.sealStream(b)
		if err := s.stream(sealed[:5], sealed[5:]); err != nil && !errors.Is(err, errSieved) {
			t.Fatal(err)
		}
		if s.packet("gw-4", b) == nil || len(b) >= 5 && s.stream(b[:5], b[5:]) == nil {
			t.Fatalf("%x is taken for sealed", b)
		}
	})
}

func TestLoadIsCoarse(t *testing.T) {
	for _, c := range []struct {
		in   Load
		want wire.GossipMeta
	}{
		{Load{}, wire.GossipMeta{}},
		{Load{-1, math.Inf(1)}, wire.GossipMeta{Busy: 100}},
		{Load{99, 0.04}, wire.GossipMeta{Sessions: 99}},
		{Load{1099, 0.26}, wire.GossipMeta{Sessions: 1000, Busy: 30}},
		{Load{math.MaxInt, -3}, wire.GossipMeta{Sessions: math.MaxInt32}},
	} {
		var m wire.GossipMeta
		if c.in.say(&m); m != c.want {
			t.Errorf("%+v is said as %+v", c.in, m)
		}
	}
}

// The library is told to take nobody who is not listed, has another address, or speaks what the others cannot.
func TestWhoIsTakenForAMember(t *testing.T) {
	m := New(Config{Names: func() []string { return []string{"gw-a", "gw-b"} }})
	m.Self.Name = "gw-a"
	r := &round{mesh: m}
	good := func(name string) memberlist.Node {
		return memberlist.Node{
			Name: name, Addr: ipOf(name), Port: addrPort, Meta: []byte{0xa0}, PMin: 1, PMax: 5, PCur: 2, DMin: ourDelegate, DMax: ourDelegate, DCur: ourDelegate,
		}
	}
	for _, c := range []struct {
		why  string
		edit func(n *memberlist.Node)
	}{
		{"not listed", func(n *memberlist.Node) { *n = good("gw-c") }},
		{"nobody", func(n *memberlist.Node) { *n = good("") }},
		{"another's address", func(n *memberlist.Node) { n.Addr = ipOf("gw-a") }},
		{"a short address", func(n *memberlist.Node) { n.Addr = net.IP{1} }},
		{"another port", func(n *memberlist.Node) { n.Port++ }},
		{"only newer", func(n *memberlist.Node) { n.PMin, n.PCur = 5, 5 }},
		{"only older", func(n *memberlist.Node) { n.PMax, n.PCur = 1, 1 }},
		{"speaks another one", func(n *memberlist.Node) { n.PCur = 3 }},
		{"another delegate", func(n *memberlist.Node) { n.DMin, n.DMax, n.DCur = 9, 9, 9 }},
		{"no meta", func(n *memberlist.Node) { n.Meta = nil }},
		{"a long meta", func(n *memberlist.Node) { n.Meta = make([]byte, wire.MaxMeta+1) }},
	} {
		n := good("gw-b")
		if err := r.NotifyAlive(&n); err != nil {
			t.Fatal(err)
		}
		if c.edit(&n); r.NotifyAlive(&n) == nil {
			t.Errorf("%s: taken", c.why)
		}
	}
	if self := good("gw-a"); r.NotifyAlive(&self) != nil {
		t.Error("not itself")
	}
}
