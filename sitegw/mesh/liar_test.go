package mesh

import (
	"bytes"
	"compress/lzw"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/holdfast-edge/holdfast/wire"
)

// What members send, as the library encodes it.
type (
	aliveMsg struct {
		Incarnation uint32
		Node        string
		Addr        []byte
		Port        uint16
		Meta, Vsn   []byte
	}
	verdictMsg struct { // suspect, dead
		Incarnation uint32
		Node, From  string
	}
	pingMsg struct {
		SeqNo      uint32
		Node       string
		SourceAddr []byte
		SourcePort uint16
		SourceNode string
	}
	indirectMsg struct {
		SeqNo      uint32
		Target     []byte
		Port       uint16
		Node       string
		Nack       bool
		SourceAddr []byte
		SourcePort uint16
		SourceNode string
	}
	stateMsg struct {
		Nodes, UserStateLen int
		Join                bool
	}
	compressed struct {
		Algo byte
		Buf  []byte
	}
)

func message(t *testing.T, kind byte, m any) []byte {
	t.Helper()
	b := []byte{kind}
	var body []byte
	if err := codec.NewEncoderBytes(&body, new(codec.MsgpackHandle)).Encode(m); err != nil {
		t.Fatal(err)
	}
	return append(b, body...)
}

func compound(parts ...[]byte) []byte {
	b := []byte{msgCompound, byte(len(parts))}
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	}
	return append(b, bytes.Join(parts, nil)...)
}

// seal seals a message as a packet of the site.
func (s *sieve) seal(plain, data []byte) []byte {
	b := make([]byte, 1+sealNonce)
	b[0] = sealVersion
	rand.Read(b[1:])
	return s.aead.Seal(b, b[1:], plain, data)
}

func (s *sieve) sealPacket(plain []byte) []byte {
	return append(bytes.Clone(s.header), s.seal(plain, []byte(s.label))...)
}

func (s *sieve) sealStream(plain []byte) []byte {
	head := make([]byte, 5)
	head[0] = msgEncrypt
	binary.BigEndian.PutUint32(head[1:], uint32(1+sealNonce+len(plain)+16))
	return append(head, s.seal(plain, append(bytes.Clone(head), s.label...))...)
}

func testSieve(t testing.TB) *sieve {
	t.Helper()
	s, err := newSieve("acme/plant-7", siteKey(1, 'a').Key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var versions = []byte{1, 5, 2, 1, 1, 1}

func metaOf(t *testing.T, m wire.GossipMeta) []byte {
	t.Helper()
	b, err := wire.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lies is a flood of everything that a member can say of others and must not: each packet another one.
func lies(t *testing.T, names []string, n int) [][]byte {
	t.Helper()
	var parts [][]byte
	pick := func(i int) string { return names[i%len(names)] }
	claims := metaOf(t, wire.GossipMeta{Capability: 1, Sessions: 99, Busy: 1 << 30, Mirror: 1 << 63, MirrorEpoch: 1 << 63, List: 1 << 63})
	for i := range n {
		inc := []uint32{1, uint32(i), math.MaxInt32, math.MaxUint32}[i%4]
		who := pick(i / 4)
		parts = append(parts,
			message(t, msgAlive, aliveMsg{inc, who, ipOf(who), addrPort, claims, versions}),
			message(t, msgSuspect, verdictMsg{inc, who, pick(i)}),
			message(t, msgDead, verdictMsg{inc, who, pick(i + 1)}),
			message(t, msgDead, verdictMsg{inc, who, who}), // it left
			message(t, msgAlive, aliveMsg{inc, who, ipOf(pick(i + 1)), addrPort, claims, versions}),
			message(t, msgAlive, aliveMsg{inc, who, ipOf(who), 7, claims, versions}),
			message(t, msgAlive, aliveMsg{inc, who, nil, addrPort, nil, nil}),
			message(t, msgAlive, aliveMsg{inc, who, ipOf(who), addrPort, claims, []byte{5, 5, 5, 9, 9, 9}}),
			message(t, msgAlive, aliveMsg{inc, who, ipOf(who), addrPort, bytes.Repeat([]byte{0xff}, 600), versions}),
			message(t, msgAlive, aliveMsg{inc, fmt.Sprintf("gw-x%d", i), ipOf(fmt.Sprintf("gw-x%d", i)), addrPort, claims, versions}),
			message(t, msgAlive, aliveMsg{inc, "", nil, 0, nil, versions}),
		)
	}
	var out [][]byte
	for c := range slices.Chunk(parts, 5) {
		out = append(out, compound(c...))
	}
	return out
}

// flood sends packets to every gateway in the name of one, until d is over.
func (s *site) flood(from string, packets [][]byte, d time.Duration) {
	s.t.Helper()
	sieve := testSieve(s.t)
	end := time.Now().Add(d)
	for _, g := range s.gateways {
		if g.name == from {
			continue
		}
		g.done.Go(func() {
			for time.Now().Before(end) {
				c := s.connect(from, g, wire.PurposePackets)
				for i := 0; time.Now().Before(end); i++ {
					b := sieve.sealPacket(packets[i%len(packets)])
					c.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a pipe's end
					if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
						break
					}
				}
				c.Close()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

// A gateway that was taken over floods the others with lies about all of them. They go on, have the same siblings, ask them for a way
// up in some order, and take none of its facts. When it is shut out, everything is as it was.
func TestGossipLiar(t *testing.T) {
	inSite(t, 5, func(t *testing.T, s *site) {
		for _, g := range s.gateways[:4] {
			g.set(Direct, Load{Sessions: 10})
		}
		s.gateways[0].set(None, Load{})
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		one := s.entry()
		s.gateways[1].Mirror.Apply(&wire.Site{Entries: [][]byte{one}})
		s.flood("gw-4", lies(t, s.listed, 40), 2*time.Minute)
		for range 24 {
			time.Sleep(5 * time.Second)
			for _, g := range s.gateways[:4] {
				var names []string
				for _, sib := range g.Siblings() {
					names = append(names, sib.Name)
					if !sib.Alive && sib.Name != "gw-4" {
						t.Fatalf("%s takes %s for dead, which is connected with it", g.name, sib.Name)
					}
				}
				slices.Sort(names)
				if !slices.Equal(names, s.others(g.name)) {
					t.Fatalf("%s has the siblings %v", g.name, names)
				}
			}
		}
		if a := s.gateways[0]; a.Mirror.Status().Devices != 1 {
			t.Error("the liar kept gw-0 from what gw-1 has")
		}
		if st := s.gateways[0].Status(); st.Dropped > 1<<20 {
			t.Errorf("status %+v", st)
		}
		s.listed = s.listed[:4]
		s.relist()
		for _, g := range s.gateways[:4] {
			g.Mirror.Apply(&wire.Site{List: s.list})
			g.ListChanged()
			g.Keys.Told(siteKey(2, 'b'))
		}
		s.until(time.Minute, "it is shut out", s.whole(s.listed...))
		for _, sib := range s.gateways[0].Siblings() {
			if sib.Meta.Sessions != 10 || !sib.Meta.Uplink {
				t.Errorf("of %s is said %+v", sib.Name, sib.Meta)
			}
		}
	})
}

// Who has the key and is not on the list is heard by nobody.
func TestKeyHolderThatIsNotListed(t *testing.T) {
	inSite(t, 3, func(t *testing.T, s *site) {
		s.until(time.Minute, "all see all", s.whole(s.listed...))
		s.flood("gw-9", lies(t, append(slices.Clone(s.listed), "gw-9"), 40), time.Minute)
		for range 20 {
			time.Sleep(3 * time.Second)
			if !s.whole(s.listed...)() {
				t.Fatal("a stranger is heard")
			}
		}
		for _, g := range s.gateways {
			if st := g.Status(); st.Sieved != 0 || st.Listed != 2 {
				t.Errorf("%s: %+v", g.name, st)
			}
			c := s.connect("gw-9", g, wire.PurposeGossip)
			c.SetDeadline(time.Now().Add(time.Minute)) //nolint:errcheck // a pipe's end
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a stranger's stream is answered")
			}
			c.Close()
		}
	})
}

// bomb is a few bytes that inflate to many.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := lzw.NewWriter(&b, lzw.LSB, 8)
	if _, err := w.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return message(t, 9, compressed{0, b.Bytes()})
}

func TestSieve(t *testing.T) {
	s := testSieve(t)
	other, err := newSieve("acme/plant-7", siteKey(1, 'b').Key)
	if err != nil {
		t.Fatal(err)
	}
	ping := message(t, msgPing, pingMsg{1, "gw-0", ipOf("gw-4"), addrPort, "gw-4"})
	suspect := message(t, msgSuspect, verdictMsg{1, "gw-1", "gw-2"})
	crc := func(b []byte) []byte { return append([]byte{msgCRC, 0, 0, 0, 0}, b...) }
	many := slices.Repeat([][]byte{suspect}, maxParts)
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"ping", s.sealPacket(ping), true},
		{"ping with a sum", s.sealPacket(crc(ping)), true},
		{"ping, suspect", s.sealPacket(compound(ping, suspect)), true},
		{"as many as may be", s.sealPacket(crc(compound(many...))), true},
		{"too many", s.sealPacket(compound(append(many, suspect)...)), false},
		{"two pings", s.sealPacket(compound(ping, ping)), false},
		{"ping in another name", s.sealPacket(message(t, msgPing, pingMsg{1, "gw-0", ipOf("gw-4"), addrPort, "gw-3"})), false},
		{"ping to be answered elsewhere", s.sealPacket(message(t, msgPing, pingMsg{1, "gw-0", ipOf("gw-3"), addrPort, "gw-4"})), false},
		{"ping for somebody else", s.sealPacket(message(t, msgIndirectPing, indirectMsg{1, ipOf("gw-1"), addrPort, "gw-1", true, ipOf("gw-3"), addrPort, "gw-3"})), false},
		{"indirect ping", s.sealPacket(message(t, msgIndirectPing, indirectMsg{1, ipOf("gw-1"), addrPort, "gw-1", true, ipOf("gw-4"), addrPort, "gw-4"})), true},
		{"bomb", s.sealPacket(bomb(t, 1<<20)), false},
		{"bomb with a sum", s.sealPacket(crc(bomb(t, 1<<20))), false},
		{"bomb in a compound", s.sealPacket(compound(suspect, bomb(t, 1<<18))), false},
		{"compound in a compound", s.sealPacket(compound(compound(suspect))), false},
		{"user message", s.sealPacket([]byte{8, 1, 2, 3}), false},
		{"nothing", s.sealPacket(nil), false},
		{"an empty part", s.sealPacket(compound(nil)), false},
		{"another key", other.sealPacket(ping), false},
		{"not sealed", append(bytes.Clone(s.header), ping...), false},
		{"no label", s.sealPacket(ping)[len(s.header):], false},
		{"cut off", s.sealPacket(ping)[:40], false},
	} {
		if err := s.packet("gw-4", c.b); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestStreamsAreSieved(t *testing.T) {
	s := testSieve(t)
	state := func(nodes, user int) []byte { return message(t, msgPushPull, stateMsg{nodes, user, true}) }
	for _, c := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"state", s.sealStream(state(maxNodes, 0)), true},
		{"a million members", s.sealStream(state(1<<20, 0)), false},
		{"fewer than none", s.sealStream(state(-1, 0)), false},
		{"user state", s.sealStream(state(1, 1<<20)), false},
		{"ping", s.sealStream(message(t, msgPing, pingMsg{})), true},
		{"bomb", s.sealStream(bomb(t, 1<<20)), false},
		{"user message", s.sealStream([]byte{8}), false},
		{"too long", s.sealStream(append(state(1, 0), make([]byte, maxStream)...)), false},
		{"not sealed", append([]byte{msgPing, 0, 0, 0, 9}, make([]byte, 9)...), false},
	} {
		for _, accepted := range []bool{true, false} {
			b := c.b
			if accepted {
				b = append(bytes.Clone(s.header), b...)
			}
			a, z := net.Pipe()
			go func() {
				a.Write(b)
				a.Write(c.b)
				a.Close()
			}()
			refused := 0
			x := newStream(z, s, accepted, func(error) { refused++ })
			var got bytes.Buffer
			_, err := got.ReadFrom(x)
			if (err == nil) != c.ok || c.ok && !bytes.Equal(got.Bytes(), b) || !c.ok && (refused != 1 || got.Len() > 0) {
				t.Errorf("%s, accepted %v: %d bytes of %d, %v, refused %d", c.name, accepted, got.Len(), len(b), err, refused)
			}
			x.Close()
		}
	}
}
