package sibling

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestSiblingsTalk(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		if got := s.a.Names(); len(got) != 1 || got[0] != "gw-b" {
			t.Errorf("siblings %q", got)
		}
		a, b := s.pair()
		if b.RemoteAddr().String() != "gw-a" || a.RemoteAddr().String() != "gw-b" || a.LocalAddr().String() != "gw-a" {
			t.Errorf("%v talks with %v", a.RemoteAddr(), b.RemoteAddr())
		}
		for _, way := range [][2]*Conn{{a, b}, {b, a}} {
			_, err := way[0].Write([]byte("hello"))
			s.ok(err)
			got := make([]byte, 5)
			_, err = io.ReadFull(way[1], got)
			s.ok(err)
			if string(got) != "hello" {
				t.Errorf("read %q", got)
			}
		}
		close(s.b.done)
	})
}

// Whoever is not on the newest list under his own key is told so, and nobody is dialled who is not.
func TestStrangersAreRefused(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for i, id := range []ident.ID{
			ident.Gateway("acme", "plant-7", "gw-x"), ident.Gateway("acme", "plant-8", "gw-a"), // nobody's name, and another site's gateway of a listed name
			ident.Gateway("acme", "plant-7", "gw-a"), // a listed name with another key
			ident.Gateway("acme", "plant-7", "gw-b"), // the sibling's own name
		} {
			g := s.add(byte(10+i), id, false)
			g.Self = ident.Gateway("acme", "plant-7", "gw-y") // so that it dials at all
			if _, err := s.dial(g, "gw-b", wire.PurposeRelay); !refused(err, wire.CodeForbidden) {
				t.Errorf("%v: %v", id, err)
			}
		}
		if _, err := s.dial(s.a, "gw-x", wire.PurposeRelay); !errors.Is(err, ErrNotSibling) {
			t.Errorf("a gateway that is not listed: %v", err)
		}
		if _, err := s.dial(s.a, "gw-a", wire.PurposeRelay); !errors.Is(err, ErrNotSibling) {
			t.Errorf("itself: %v", err)
		}
		// At the address of gw-b somebody else answers, who is listed, too.
		list := s.gateways()
		list[1].Listen = list[0].Listen
		if _, err := s.dial(s.a, "gw-b", wire.PurposeRelay); !errors.Is(err, link.ErrClosed) {
			t.Errorf("another gateway at the address: %v", err)
		}
		s.setList(nil)
		if _, err := s.dial(s.a, "gw-b", wire.PurposeRelay); !errors.Is(err, ErrNotSibling) {
			t.Errorf("without a list: %v", err)
		}
	})
}

// What is no gateway does not come through the handshake.
func TestOtherRolesAreRefused(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for i, id := range []ident.ID{ident.Device("acme", ident.NewDeviceID()), ident.Core("acme", "core-1")} {
			self := ident.Gateway("acme", "plant-7", "gw-z")
			g := s.addWith(byte(10+i), self, s.fleet.Certificate(id, time.Now()), true)
			if _, err := s.dial(g, "gw-b", wire.PurposeRelay); !errors.Is(err, link.ErrClosed) {
				t.Errorf("%v: %v", id, err)
			}
			if _, err := s.dial(s.a, "gw-z", wire.PurposeRelay); !errors.Is(err, link.ErrClosed) {
				t.Errorf("%v is dialled: %v", id, err)
			}
			s.setList(s.gateways()[:2])
		}
	})
}

func TestExpiredCertificateOfAListedKeyIsTaken(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		time.Sleep(400 * 24 * time.Hour)
		a, b := s.pair()
		_, err := a.Write([]byte("x"))
		s.ok(err)
		_, err = b.Read(make([]byte, 1))
		s.ok(err)
		close(s.b.done)
	})
}

func TestPurposes(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		if _, err := s.dial(s.a, "gw-b", wire.PurposeMirror); !refused(err, wire.CodeUnsupported) {
			t.Errorf("a purpose that is not served: %v", err)
		}
		if _, err := s.dial(s.a, "gw-b", wire.PurposeGossip); !refused(err, wire.CodeInternal) {
			t.Errorf("a handler that decides nothing: %v", err)
		}
		told := make(chan struct{})
		go func() {
			(<-s.b.got).Refuse(wire.Refuse(wire.CodeUnavailable, "not now").After(time.Second))
			s.b.done <- struct{}{}
			close(told)
		}()
		if _, err := s.dial(s.a, "gw-b", wire.PurposeRelay); !refused(err, wire.CodeUnavailable) {
			t.Errorf("a refusal: %v", err)
		}
		<-told
	})
}

func TestSessionsAreBounded(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		var first *Conn
		for range maxSessions {
			first, _ = s.pair()
		}
		if _, err := s.dial(s.a, "gw-b", wire.PurposeRelay); !refused(err, wire.CodeBusy) {
			t.Fatalf("one more: %v", err)
		}
		s.b.done <- struct{}{}
		first.Close()
		time.Sleep(2 * lingerTime)
		s.pair()
		close(s.b.done)
	})
}

// A gateway that is taken off the list is cut off on both sides.
func TestDelistedGatewayIsCutOff(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, b := s.pair()
		s.a.Changed()
		s.b.Changed()
		if _, err := a.Write([]byte("x")); err != nil {
			t.Fatalf("a change that does not concern the session: %v", err)
		}
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		full := s.gateways()
		s.setList(full[1:])
		s.b.Changed()
		s.ok(a.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := a.Read(make([]byte, 1)); !refused(err, wire.CodeForbidden) {
			t.Errorf("the one taken off the list reads %v", err)
		}
		s.b.done <- struct{}{}
		s.setList(full)
		_, b = s.pair()
		s.setList(full[:1])
		s.a.Changed()
		s.ok(b.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := b.Read(make([]byte, 1)); !refused(err, wire.CodeForbidden) {
			t.Errorf("the one taken off the list reads %v", err)
		}
		close(s.b.done)
	})
}

// A key that was replaced is none of the gateway's.
func TestReplacedKeyIsRefused(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		other := s.fleet.Certificate(ident.Gateway("acme", "plant-7", "gw-a"), time.Now())
		s.setList([]seal.ListedGateway{{Name: "gw-a", Keys: []ident.KeyID{keyOf(t, other)}, Listen: s.gateways()[0].Listen}, s.gateways()[1]})
		if _, err := s.dial(s.a, "gw-b", wire.PurposeRelay); !refused(err, wire.CodeForbidden) {
			t.Errorf("with the old key: %v", err)
		}
		if _, err := s.dial(s.b, "gw-a", wire.PurposeRelay); !errors.Is(err, link.ErrClosed) {
			t.Errorf("to the old key: %v", err)
		}
	})
}

// A hello that does not read, or none, ends the session.
func TestHelloMustRead(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		tc := s.fleet.Endpoint(s.a.cert).Client(wire.ALPNSite, ident.RoleGateway, nil)
		for _, frame := range []struct {
			t wire.Type
			m any
		}{{wire.TypeBytes, wire.Bytes{Data: []byte("x")}}, {wire.TypeSiblingHello, map[int]string{1: "x"}}} {
			ls := s.raw(tc)
			s.ok(ls.Send(frame.t, frame.m))
			typ, body, err := ls.RecvWithin(time.Minute)
			var e wire.Error
			if err != nil || typ != wire.TypeError || wire.Unmarshal(body, &e) != nil || e.Code != wire.CodeMalformed {
				t.Errorf("%v is answered with %v, %v, %v", frame.t, typ, e, err)
			}
			ls.Close()
		}
	})
}

// raw opens a session with gw-b and says nothing.
func (s *site) raw(tc *tls.Config) *link.Session {
	s.t.Helper()
	to := link.Target{Addr: s.b.tr.Addr().String(), TLS: tc}
	ls, err := link.Open(s.t.Context(), s.a.Dialer, to, func(ls *link.Session) (*link.Session, error) { return ls, nil })
	s.ok(err)
	s.t.Cleanup(ls.Close)
	return ls
}

func TestServerEndsSessions(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		a, _ := s.pair()
		s.b.done <- struct{}{} // the handler returns: what it accepted is closed
		if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read %d, %v", n, err)
		}
		synctest.Wait()
	})
}
