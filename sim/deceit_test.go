package sim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A larder is what the rogue of a usurped plant brings to devices: content, and orders that the core told it. What they state it passes on, so that
// it is held against nothing but its lie.
type larder struct {
	*usurped
	one, two  *release
	authority crypto.Signer

	mu         sync.Mutex
	blobs      map[wire.Digest][]byte // chunks, manifests, and releases by the artifact
	sets       map[uint64][]byte
	publishers uint64 // the number that it tells of
	submits    uint64
	order      []byte                                    // in each answer to a heartbeat
	spoil      func(k wire.ContentKind, b []byte) []byte // nil: it is honest
}

// inLarder runs f in a usurped plant whose victim runs release one, which it has of the rogue.
func inLarder(t *testing.T, f func(l *larder)) {
	t.Helper()
	inUsurped(t, func(u *usurped) {
		u.trust()
		l := &larder{usurped: u, blobs: make(map[wire.Digest][]byte), sets: make(map[uint64][]byte), publishers: 1}
		l.one, l.two = u.publish(1, 8, 4096), u.publish(2, 8, 4096)
		l.stock(l.one)
		l.stock(l.two)
		l.authority = u.coreKeys().Authority()
		v, _ := u.Core(1).View()
		set, ok := v.Publishers(1)
		if !ok {
			t.Fatal("the core has no set of publishers")
		}
		l.sets[1] = set.Sealed
		u.down.mu.Lock()
		u.down.alter, u.down.content, u.down.receipt = l.tell, l.bring, l.pass
		u.down.mu.Unlock()
		u.agents[0].Kill() // and states anew what the rogue has not passed on until now
		u.agents[0] = u.startAgent(u.victim)
		u.sleep(2 * time.Second)
		u.assign(u.victim, l.one)
		u.sleep(time.Second)
		l.hand(l.ordered(u.victim, 0))
		u.sleep(20 * time.Second)
		if !u.runs(u.victim, l.one) {
			t.Fatal("the device has not come to release one through the rogue")
		}
		if said := u.doubted(); said != "" {
			t.Fatalf("named before it lied: %s", said)
		}
		f(l)
	})
}

// stock has the rogue have a release.
func (l *larder) stock(r *release) {
	for _, c := range r.Chunks {
		l.blobs[c.Digest] = c.Stored[1:]
	}
	l.blobs[r.Digest] = r.Bytes
	l.blobs[wire.DigestOf(r.Digest[:])] = r.Release
}

// pass brings a statement to the core, as an honest gateway does.
func (l *larder) pass(st *seal.SealedStatement) []byte {
	l.mu.Lock()
	l.submits++
	id := l.submits
	l.mu.Unlock()
	if err := l.rogue.up.Send(wire.TypeSubmit, wire.Submit{ID: id, TimeMS: time.Now().UnixMilli(), Statements: [][]byte{st.Sealed}, AfterMS: []int64{0}}); err != nil {
		l.t.Error(err)
	}
	return nil
}

// tell puts an order, the number of publishers and the newest receipt into what the rogue says.
func (l *larder) tell(_ wire.Type, m any) {
	if a, ok := m.(*wire.HeartbeatAck); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.Order, a.Publishers = l.order, l.publishers
		l.rogue.mu.Lock()
		a.Receipt = l.rogue.receipt
		l.rogue.mu.Unlock()
	}
}

// bring answers a question for content.
func (l *larder) bring(f *wire.Fetch) *wire.Blob {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b []byte
	switch f.Kind {
	case wire.ContentRelease:
		b = l.blobs[wire.DigestOf(f.Digest[:])]
	case wire.ContentPublishers:
		b = l.sets[f.Number]
	default:
		b = l.blobs[f.Digest]
	}
	if b == nil {
		return &wire.Blob{Code: wire.CodeNoContent}
	}
	if l.spoil != nil {
		b = l.spoil(f.Kind, bytes.Clone(b))
	}
	return &wire.Blob{Data: b, Total: uint64(len(b))}
}

// hand has the rogue bring an order from now on.
func (l *larder) hand(order []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = order
}

// ordered is the nth order, from 0, that the core told the rogue for a device.
func (l *larder) ordered(a *Agent, n int) []byte {
	l.t.Helper()
	l.rogue.mu.Lock()
	defer l.rogue.mu.Unlock()
	var own [][]byte
	for _, b := range l.rogue.orders {
		o, err := seal.OpenOrder(b, "sim", l.authority.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // the authority's is ed25519
		l.must(err)
		if o.Device == deviceID(l.t, a) && !slices.ContainsFunc(own, func(x []byte) bool { return bytes.Equal(x, b) }) {
			own = append(own, b)
		}
	}
	if n >= len(own) {
		l.t.Fatalf("the core told the rogue %d orders for %s", len(own), a.Name)
	}
	return own[n]
}

// coreKeys are the keys of the fleet, in the hands of whoever has a core node.
func (p *plant) coreKeys() *enroll.Keyring {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Core(1).Dir(), "holder.key"))
	p.must(err)
	holder, err := enroll.ParseHolderKey(string(b))
	p.must(err)
	v, _ := p.Core(1).View()
	k, err := enroll.OpenKeyring(v.Fleet(), "core-1", holder)
	p.must(err)
	return k
}

// still holds that release one runs for a time, at each moment of it.
func (l *larder) still(d time.Duration) {
	l.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.sleep(500 * time.Millisecond)
		if !l.runs(l.victim, l.one) {
			l.t.Fatal("the old release does not run any more")
		}
	}
}

// TestGatewayThatServesWrongContent has a gateway that is alone with a device bring something else than what is asked for. The old release runs, and
// with the first other gateway the device has the new one, and the core knows whom it doubts.
func TestGatewayThatServesWrongContent(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, spoil := range map[string]func(l *larder, k wire.ContentKind, b []byte) []byte{
		"chunks": func(_ *larder, k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentChunk {
				return flip(b)
			}
			return b
		},
		"another chunk": func(l *larder, k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentChunk {
				return l.one.Chunks[0].Stored[1:]
			}
			return b
		},
		"the manifest": func(_ *larder, k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentManifest {
				return flip(b)
			}
			return b
		},
		"the release": func(_ *larder, k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentRelease {
				return flip(b)
			}
			return b
		},
		"another release": func(l *larder, k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentRelease {
				return l.one.Release
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inLarder(t, func(l *larder) {
				l.reach(l.sibling, false)
				l.mu.Lock()
				l.spoil = func(k wire.ContentKind, b []byte) []byte { return spoil(l, k, b) }
				l.mu.Unlock()
				l.assign(l.victim, l.two)
				l.sleep(time.Second)
				l.hand(l.ordered(l.victim, 1))
				l.still(30 * time.Second)
				l.reach(l.gw, false)
				l.reach(l.sibling, true)
				l.sleep(2 * time.Minute)
				l.named(seal.DoubtContent.String())
				if name == "the release" { // nothing that is signed was seen, which an operator has to look at
					if s := l.slot(l.victim); s != "failed signature" {
						t.Errorf("the device is %q", s)
					}
					l.must(l.Call(l.ctx, nil, http.MethodPost, "/v1/devices/"+l.victim.ID+"/slots/app/retry", nil))
					l.sleep(time.Minute)
				}
				if !l.runs(l.victim, l.two) || l.slot(l.victim) != "healthy" {
					t.Errorf("behind an honest gateway the device is %q", l.slot(l.victim))
				}
			})
		})
	}
}

// TestLiarIsLeftForTheFirstOther has a device, alone with a gateway that brings wrong chunks, meet another one when the lie
// is long over: it goes there, though nothing else speaks for it, so that the core hears of the lie.
func TestLiarIsLeftForTheFirstOther(t *testing.T) {
	t.Parallel()
	inLarder(t, func(l *larder) {
		l.reach(l.sibling, false)
		l.mu.Lock()
		l.spoil = func(k wire.ContentKind, b []byte) []byte {
			if k == wire.ContentChunk {
				b[0] ^= 1
			}
			return b
		}
		l.mu.Unlock()
		l.assign(l.victim, l.two)
		l.sleep(time.Second)
		l.hand(l.ordered(l.victim, 1))
		l.still(30 * time.Second)
		l.mu.Lock()
		l.spoil = nil // as if nothing had been
		l.mu.Unlock()
		l.sleep(10 * time.Minute)
		if said := l.doubted(); said != "" || !l.runs(l.victim, l.two) {
			t.Fatalf("named with nobody to tell it: %s", said)
		}
		l.reach(l.sibling, true)
		l.sleep(12 * time.Minute)
		l.named(seal.DoubtContent.String())
		if d := l.want(0, "online", ""); d.Gateway != "plant-7/gw-b" || !l.runs(l.victim, l.two) {
			t.Errorf("the device is still at %s", d.Gateway)
		}
	})
}

// TestGatewayThatBringsWrongOrders has a gateway bring a device an order that is not to be obeyed.
func TestGatewayThatBringsWrongOrders(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]func(l *larder) []byte{
		"an old one":          func(l *larder) []byte { return l.ordered(l.victim, 0) },
		"another device's":    func(l *larder) []byte { return l.ordered(l.other, 0) },
		"one with a flip":     func(l *larder) []byte { b := bytes.Clone(l.ordered(l.victim, 2)); b[len(b)/2] ^= 1; return b },
		"one that it made up": func(l *larder) []byte { return l.forge(l.victim, 99, l.two.Digest, contenttest.Key(9)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inLarder(t, func(l *larder) {
				l.assign(l.other, l.two)
				l.assign(l.victim, l.two)
				l.sleep(time.Second)
				l.assign(l.victim, l.one)
				l.sleep(time.Second)
				l.hand(l.ordered(l.victim, 2))
				l.still(15 * time.Second)
				l.hand(order(l))
				l.still(90 * time.Second)
				l.named(seal.DoubtOrder.String())
				if d := l.want(0, "online", ""); d.Gateway != "plant-7/gw-b" || l.slot(l.victim) != "healthy" {
					t.Errorf("the device is at %s, %q", d.Gateway, l.slot(l.victim))
				}
			})
		})
	}
}

// forge is an order for a device that somebody signed.
func (l *larder) forge(a *Agent, number uint64, d wire.Digest, key crypto.Signer) []byte {
	l.t.Helper()
	cred, err := credential.Load(a.Dir())
	l.must(err)
	body, err := wire.Marshal(seal.Desired{Assignments: []seal.Assignment{{Slot: "app", Artifact: d}}})
	l.must(err)
	b, err := seal.SealOrder(&seal.Order{
		Version: seal.OrderVersion, Fleet: "sim", Device: cred.ID.Device, Keys: []ident.KeyID{cred.KeyID}, ClusterEpoch: 1, Number: number, Kind: seal.OrderDesired,
		Body: body, LogTimeMS: time.Now().UnixMilli(),
	}, key)
	l.must(err)
	return b
}

// TestCoreThatAddsAPublisher has a core, which has the authority's key and a gateway in league with it, offer a set of publishers in which somebody
// else may publish, and order what he published. The device follows neither a second set 1 nor a set 2 that no root key signed.
func TestCoreThatAddsAPublisher(t *testing.T) {
	t.Parallel()
	intruder := contenttest.Key(66)
	for name, tt := range map[string]struct {
		number uint64
		alarm  bool
		ends   string
	}{
		"a second set 1": {1, false, "downloading content"}, // as it is no set 2, the device waits for one
		"a set 2":        {2, true, "failed publisher"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inLarder(t, func(l *larder) {
				l.reach(l.sibling, false)
				set := contenttest.Set("sim")
				set.Number = tt.number
				set.Publishers = append(set.Publishers, seal.Publisher{Name: "intruder", Key: intruder.Public().(ed25519.PublicKey)}) //nolint:forcetypeassert // it is
				sig, err := seal.SignPublisherSet(set, l.authority)
				l.must(err)
				forged, err := seal.JoinPublisherSet(sig)
				l.must(err)
				evil := l.release(3, 8, 4096)
				evil.Release = evil.Sign(t, intruder)
				l.mu.Lock()
				l.sets[1], l.sets[2] = forged, forged
				l.publishers = 2
				l.stock(evil)
				l.mu.Unlock()
				l.hand(l.forge(l.victim, 50, evil.Digest, l.authority))
				l.still(30 * time.Second)
				l.reach(l.gw, false)
				l.reach(l.sibling, true)
				l.sleep(2 * time.Minute)
				l.still(time.Second)
				if s := l.slot(l.victim); s != tt.ends {
					t.Errorf("of what the intruder published the device says %q", s)
				}
				if said := l.events("device.alarm"); tt.alarm != strings.Contains(said, `"reason":"publishers"`) {
					t.Errorf("alarms: %q", said)
				}
				if !tt.alarm {
					l.named(seal.DoubtContent.String())
				}
			})
		})
	}
}
