package enroll

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestEnrollDevice(t *testing.T) {
	c := newCore(t)
	c.enrolled(c.request(newBox(t), c.token(seal.KindGateway, "plant-7", 1), seal.KindGateway))
	b := newBox(t)
	out := c.enrolled(c.request(b, c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice))
	peer, err := c.keys.Trust().Verify(parseChain(t, out.Chain), c.now, ident.RoleDevice)
	if err != nil {
		t.Fatal(err)
	}
	if peer.ID.String() != out.Identity || peer.Key != ident.KeyIDOfSPKI(b.spki) || peer.ID.Fleet != "acme" {
		t.Errorf("certificate of %v, told %s", peer.ID, out.Identity)
	}
	if out.Site != "plant-7" || out.IntervalMS != 30_000 || fmt.Sprint(out.Gateways) != "[gw-b:4433]" {
		t.Errorf("told %+v", out)
	}
	if !bytes.Equal(out.Root, c.keys.Trust().Root.Raw) || !bytes.Equal(out.Authority, c.keys.AuthorityCert()) {
		t.Error("told another root or authority")
	}
	d, ok := c.View().Device(peer.ID.Device)
	if !ok || d.Site != "plant-7" || d.Keys[0].NotAfterMS != peer.Leaf.NotAfter.UnixMilli() {
		t.Errorf("record %+v; certificate until %v", d, peer.Leaf.NotAfter)
	}
}

func TestEnrollGateway(t *testing.T) {
	c := newCore(t)
	out := c.enrolled(c.request(newBox(t), c.token(seal.KindGateway, "plant-7", 1), seal.KindGateway))
	peer, err := c.keys.Trust().Verify(parseChain(t, out.Chain), c.now, ident.RoleGateway)
	if err != nil || peer.ID != ident.Gateway("acme", "plant-7", "gw-b") || out.Identity != peer.ID.String() {
		t.Errorf("certificate of %v, told %s: %v", peer.ID, out.Identity, err)
	}
}

// Whatever is wrong with an enrollment, the answer is the same to the byte, and nothing reaches the log.
func TestOneRefusalForAll(t *testing.T) {
	c := newCore(t)
	good := c.token(seal.KindDevice, "plant-7", 5)
	used := c.token(seal.KindDevice, "plant-7", 1)
	c.enrolled(c.request(newBox(t), used, seal.KindDevice))
	revoked := c.token(seal.KindDevice, "plant-7", 5)
	c.do(&command.RevokeToken{ID: revoked.ID})
	gateways := c.token(seal.KindGateway, "plant-7", 5)
	cores := c.token(seal.KindCore, "plant-7", 5)
	c.pass(30 * time.Minute)
	young := c.token(seal.KindDevice, "plant-7", 5)
	c.pass(30 * time.Minute) // good and the like have expired, young has not

	b, other := newBox(t), newBox(t)
	ask := func(tok *seal.Token, kind seal.Kind, change func(*Request)) Request {
		r := c.request(b, tok, kind)
		if change != nil {
			change(&r)
		}
		return r
	}
	proofFor := func(fleet string, kind seal.Kind, spki []byte) func(*Request) {
		return func(r *Request) {
			p, err := seal.SealEnroll(young, fleet, kind, spki)
			if err != nil {
				t.Fatal(err)
			}
			r.Proof = p
		}
	}
	alter := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	tests := map[string]Request{
		"unknown token":        ask(seal.NewToken(c.keys.Trust().Pin()), seal.KindDevice, nil),
		"expired":              ask(good, seal.KindDevice, nil),
		"used up":              ask(used, seal.KindDevice, nil),
		"revoked":              ask(revoked, seal.KindDevice, nil),
		"proof flipped":        ask(young, seal.KindDevice, func(r *Request) { r.Proof = alter(r.Proof, len(r.Proof)-1) }),
		"proof is no proof":    ask(young, seal.KindDevice, func(r *Request) { r.Proof = []byte("x") }),
		"swapped key":          ask(young, seal.KindDevice, func(r *Request) { r.CSR = other.csr }),
		"proof for other key":  ask(young, seal.KindDevice, proofFor("acme", seal.KindDevice, other.spki)),
		"proof for other kind": ask(young, seal.KindDevice, proofFor("acme", seal.KindGateway, b.spki)),
		"proof for the fleet":  ask(young, seal.KindDevice, proofFor("other", seal.KindDevice, b.spki)),
		"altered CSR":          ask(young, seal.KindDevice, func(r *Request) { r.CSR = alter(r.CSR, len(r.CSR)-1) }),
		"no CSR":               ask(young, seal.KindDevice, func(r *Request) { r.CSR = nil }),
		"another site":         ask(young, seal.KindDevice, func(r *Request) { r.Via = ident.Gateway("acme", "plant-8", "gw-a") }),
		"through no gateway":   ask(young, seal.KindDevice, func(r *Request) { r.Via = ident.ID{} }),
		"gateway as a device":  ask(gateways, seal.KindDevice, nil),
		"device as a gateway":  ask(young, seal.KindGateway, nil),
		"core node":            ask(cores, seal.KindCore, nil),
	}
	proposed := c.proposed
	want := ""
	for name, r := range tests {
		out, err := c.enroll(r)
		if out != nil || code(err) != wire.CodeRefused {
			t.Errorf("%s: admitted=%v, %v", name, out != nil, err)
			continue
		}
		var e *wire.Error
		errors.As(err, &e)
		b, err := wire.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = string(b)
		}
		if string(b) != want {
			t.Errorf("%s is told apart: %+v", name, e)
		}
	}
	if c.proposed != proposed {
		t.Errorf("%d refused enrollments reached the log", c.proposed-proposed)
	}
	if got := c.svc.Refused(); got != uint64(len(tests)) {
		t.Errorf("%d counted of %d", got, len(tests))
	}
	c.enrolled(ask(young, seal.KindDevice, nil)) // and the request is fine where nothing is wrong
}

func TestGatewayNames(t *testing.T) {
	c := newCore(t)
	tok := c.token(seal.KindGateway, "plant-7", 9)
	for name, change := range map[string]func(*Request){
		"no name": func(r *Request) { r.Name = "" }, "a path": func(r *Request) { r.Name = "a/b" }, "capitals": func(r *Request) { r.Name = "GW" },
		"long address": func(r *Request) { r.Listen = string(make([]byte, 257)) }, "through a gateway": func(r *Request) { r.Via = c.via },
	} {
		r := c.request(newBox(t), tok, seal.KindGateway)
		change(&r)
		if _, err := c.enroll(r); code(err) != wire.CodeRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A retry after a lost reply gets the very certificate that the first try got, also after the token's end.
func TestRetryGetsTheSame(t *testing.T) {
	c := newCore(t)
	r := c.request(newBox(t), c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice)
	first := c.enrolled(r)
	for _, d := range []time.Duration{time.Minute, time.Hour, 23 * time.Hour} {
		c.pass(d)
		again := c.enrolled(r)
		if again.Identity != first.Identity || !bytes.Equal(again.Chain[0], first.Chain[0]) || !bytes.Equal(again.Chain[1], first.Chain[1]) {
			t.Errorf("%v later: another certificate, for %s", d, again.Identity)
		}
	}
	c.pass(time.Hour)
	if _, err := c.enroll(r); code(err) != wire.CodeRefused {
		t.Errorf("a day past the end: %v", err)
	}
	if n := c.View().DeviceCount(); n != 1 {
		t.Errorf("%d devices", n)
	}
}

// The key turns out to have a record between the look and the commit: the certificate is issued anew, for that record.
func TestRecordAppearsMeanwhile(t *testing.T) {
	c := newCore(t)
	b := newBox(t)
	one, two := c.request(b, c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice), c.request(b, c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice)
	var first *wire.Enrolled
	c.before = func() { first = c.enrolled(one) }
	second := c.enrolled(two)
	if first.Identity != second.Identity || c.View().DeviceCount() != 1 {
		t.Errorf("%s and %s", first.Identity, second.Identity)
	}
	peer, err := c.keys.Trust().Verify(parseChain(t, second.Chain), c.now, ident.RoleDevice)
	if err != nil || peer.ID.String() != second.Identity {
		t.Errorf("certificate of %v: %v", peer.ID, err)
	}
}

func TestHundredAtOnceWithTenUses(t *testing.T) {
	c := newCore(t)
	tok := c.token(seal.KindDevice, "plant-7", 10)
	var wg sync.WaitGroup
	var admitted, refused atomic.Int32
	var ids sync.Map
	for range 100 {
		r := c.request(newBox(t), tok, seal.KindDevice)
		wg.Go(func() {
			switch out, err := c.enroll(r); {
			case err == nil:
				admitted.Add(1)
				ids.Store(out.Identity, true)
			case code(err) == wire.CodeRefused:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	distinct := 0
	ids.Range(func(any, any) bool { distinct++; return true })
	if admitted.Load() != 10 || refused.Load() != 90 || distinct != 10 || c.View().DeviceCount() != 10 {
		t.Errorf("%d admitted, %d refused, %d identities, %d devices", admitted.Load(), refused.Load(), distinct, c.View().DeviceCount())
	}
}

func TestBusyAfterTooManyFailures(t *testing.T) {
	c := newCore(t)
	bad := Request{Source: "10.0.0.1"}
	for range failuresAtOnce {
		if _, err := c.enroll(bad); code(err) != wire.CodeRefused {
			t.Fatal(err)
		}
	}
	_, err := c.enroll(bad)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeBusy || e.RetryAfter() != time.Minute {
		t.Errorf("after %d failures: %v", failuresAtOnce, err)
	}
	c.enrolled(c.request(newBox(t), c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice)) // others are not held up
}

func TestCoreCannotCommit(t *testing.T) {
	c := newCore(t)
	r := c.request(newBox(t), c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice)
	c.err = errors.New("no quorum")
	_, err := c.enroll(r)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeUnavailable || e.RetryAfter() == 0 {
		t.Errorf("error %v", err)
	}
	c.err = registry.ErrRetry
	if _, err := c.enroll(r); code(err) != wire.CodeUnavailable {
		t.Errorf("a registry that always changed meanwhile: %v", err)
	}
	if c.svc.Refused() != 0 {
		t.Error("what is not the device's fault was counted as refused")
	}
}

func TestRenew(t *testing.T) {
	c := newCore(t)
	b, gw := newBox(t), newBox(t)
	dev := c.enrolled(c.request(b, c.token(seal.KindDevice, "plant-7", 1), seal.KindDevice))
	c.enrolled(c.request(gw, c.token(seal.KindGateway, "plant-7", 1), seal.KindGateway))
	devID, err := ident.Parse(dev.Identity)
	if err != nil {
		t.Fatal(err)
	}
	gwID := ident.Gateway("acme", "plant-7", "gw-b")
	c.pass(60 * 24 * time.Hour)
	for id, b := range map[ident.ID]box{devID: b, gwID: gw} {
		out, err := c.svc.Renew(t.Context(), id, b.csr)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := c.keys.Trust().Verify(parseChain(t, out.Chain), c.now, id.Role)
		if err != nil || peer.ID != id || !peer.Leaf.NotAfter.Equal(c.now.Add(ident.LeafLifetime)) {
			t.Errorf("renewed as %v until %v: %v", peer.ID, peer.Leaf.NotAfter, err)
		}
	}
	if d, _ := c.View().Device(devID.Device); d.Keys[0].NotAfterMS != c.now.Add(ident.LeafLifetime).UnixMilli() {
		t.Errorf("record %+v", d.Keys)
	}
	for name, tt := range map[string]struct {
		id   ident.ID
		csr  []byte
		want wire.Code
	}{
		"another key":     {devID, gw.csr, wire.CodeUnknownKey},
		"no record":       {ident.Device("acme", ident.NewDeviceID()), b.csr, wire.CodeUnknownKey},
		"no gateway":      {ident.Gateway("acme", "plant-7", "gw-z"), gw.csr, wire.CodeUnknownKey},
		"a core node":     {ident.Core("acme", "core-1"), b.csr, wire.CodeUnknownKey},
		"a CSR that lies": {devID, b.csr[:len(b.csr)-2], wire.CodeMalformed},
	} {
		if _, err := c.svc.Renew(t.Context(), tt.id, tt.csr); code(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.err = errors.New("no quorum")
	if _, err := c.svc.Renew(t.Context(), devID, b.csr); code(err) != wire.CodeUnavailable {
		t.Errorf("not committed: %v", err)
	}
}
