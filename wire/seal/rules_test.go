package seal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func TestStatementRules(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Statement)
		ok   bool
	}{
		"first of a later epoch": {func(*Statement) {}, true},
		"newer version":          {func(s *Statement) { s.Version = 7 }, true},
		"unknown type":           {func(s *Statement) { s.Type = 99 }, true},
		"unknown clock quality":  {func(s *Statement) { s.Clock = 99 }, true},
		"later":                  {func(s *Statement) { s.Seq, s.Prev, s.Before = 2, Chain{1}, nil }, true},
		"no version":             {func(s *Statement) { s.Version = 0 }, false},
		"epoch 0":                {func(s *Statement) { s.Epoch = 0 }, false},
		"seq 0":                  {func(s *Statement) { s.Seq = 0 }, false},
		"first with a chain":     {func(s *Statement) { s.Prev = Chain{1} }, false},
		"later with an epoch":    {func(s *Statement) { s.Seq = 2 }, false},
	} {
		s := sampleStatement(t)
		tc.edit(s)
		sealed, err := SealStatement(s, deviceKID, deviceKey)
		fatal(t, err)
		got, err := ParseStatement(sealed.Sealed)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (got.Chain != sealed.Chain || got.Key != sealed.Key) {
			t.Errorf("%s: chain or key differs between the signer and the reader", name)
		}
	}
}

func TestStatementsThatAreTooLarge(t *testing.T) {
	s := sampleStatement(t)
	body, err := wire.Marshal(make([]byte, maxSealed))
	fatal(t, err)
	s.Body = body
	if _, err := SealStatement(s, deviceKID, deviceKey); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("got %v, want ErrMalformed", err)
	}
}

func TestAttachRules(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Attach)
		ok   bool
	}{
		"as sampled":        {func(*Attach) {}, true},
		"empty outbox":      {func(a *Attach) { a.Lowest, a.Highest = 7, 6 }, true},
		"nothing stated":    {func(a *Attach) { a.Lowest, a.Highest = 1, 0 }, true},
		"lowest beyond":     {func(a *Attach) { a.Lowest = 8 }, false},
		"highest of all":    {func(a *Attach) { a.Highest = 1<<64 - 1 }, false},
		"no version":        {func(a *Attach) { a.Version = 0 }, false},
		"start 0":           {func(a *Attach) { a.Start = 0 }, false},
		"session 0":         {func(a *Attach) { a.Session = 0 }, false},
		"gateway of 17 KiB": {func(a *Attach) { a.Gateway = strings.Repeat("x", 17<<10) }, false},
	} {
		a := sampleAttach()
		tc.edit(a)
		b, err := SealAttach(a, deviceKID, deviceKey)
		if err == nil {
			_, err = ParseAttach(b)
		}
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := golden(t, "attach.payload", nil)
	b, err := sealAs(domainAttach, deviceKID[:16], p, cose.AlgorithmES256, deviceKey)
	fatal(t, err)
	if _, err := ParseAttach(b); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("short key id: %v", err)
	}
}

func TestRegisterRules(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Register)
		ok   bool
	}{
		"as sampled":    {func(*Register) {}, true},
		"no tags":       {func(r *Register) { r.Tags = nil }, true},
		"long version":  {func(r *Register) { r.AgentVersion = strings.Repeat("1", maxVersion+1) }, false},
		"reserved tag":  {func(r *Register) { r.Tags = map[string]string{"site": "x"} }, false},
		"bad profile":   {func(r *Register) { r.Profile.Model.State = 9 }, false},
		"control bytes": {func(r *Register) { r.Profile.Hints.Serial = "\x00\x00" }, false},
	} {
		r := sampleRegister()
		tc.edit(r)
		body, err := wire.Marshal(r)
		fatal(t, err)
		s := sampleStatement(t)
		s.Body = body
		if _, err = s.Register(); (err == nil) != tc.ok || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := sampleStatement(t)
	s.Type = 2
	if _, err := s.Register(); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("another type read as a registration: %v", err)
	}
	for n := range sampleStatement(t).Body {
		s := sampleStatement(t)
		s.Body = s.Body[:n]
		if _, err := s.Register(); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("body cut at %d: %v", n, err)
		}
	}
}

// The fixed-size fields have one encoding. Another length is not filled up or cut.
func TestFixedSizes(t *testing.T) {
	for name, edit := range map[string]func(map[int]any){
		"short chain":   func(m map[int]any) { m[7] = make([]byte, 31) },
		"long chain":    func(m map[int]any) { m[7] = make([]byte, 33) },
		"empty chain":   func(m map[int]any) { m[7] = []byte{} },
		"chain of ints": func(m map[int]any) { m[7] = make([]int, 32) },
		"short boot id": func(m map[int]any) { m[10] = make([]byte, 15) },
		"long epoch id": func(m map[int]any) { m[5] = make([]byte, 17) },
		"short device":  func(m map[int]any) { m[3] = device[:15] },
		"null device":   func(m map[int]any) { m[3] = nil },
	} {
		s := sampleStatement(t)
		m := map[int]any{
			1: s.Version, 2: s.Type, 3: s.Device, 4: s.Epoch, 5: s.EpochID, 6: s.Seq, 7: s.Prev, 8: s.TimeMS, 9: s.UptimeMS,
			10: s.BootID, 11: s.Clock, 12: s.Body,
		}
		parse := func() error {
			payload, err := wire.Marshal(m)
			fatal(t, err)
			b, err := sealAs(domainStatement, deviceKID[:], payload, cose.AlgorithmES256, deviceKey)
			fatal(t, err)
			_, err = ParseStatement(b)
			return err
		}
		if err := parse(); err != nil {
			t.Fatalf("the statement before the edit: %v", err)
		}
		edit(m)
		if err := parse(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

func TestChain(t *testing.T) {
	a, b := Chain{}.Next([]byte("a")), Chain{}.Next([]byte("b"))
	if a == b || a.Next([]byte("b")) == b.Next([]byte("a")) || a.Next(nil) == a {
		t.Error("chains that differ in their statements are equal")
	}
}

func TestTimes(t *testing.T) {
	want := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	if got := sampleStatement(t).Time(); !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("statement made at %v, want %v", got, want)
	}
	if got := sampleReceipt().LogTime(); !got.Equal(want.Add(time.Second)) {
		t.Errorf("receipt made at %v", got)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		StatementRegister.String(): "register", StatementType(9).String(): "type_9", ClockUnknown.String(): "unknown",
		ClockSynced.String(): "synced", ClockUnsynced.String(): "unsynced", ClockFloored.String(): "floored",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if ClockQuality(200).String() != "floored" {
		t.Error("a clock quality that is not known here must not look trusted")
	}
}

func TestTokensDoNotParse(t *testing.T) {
	good := token.Reveal()
	for name, s := range map[string]string{
		"nothing": "", "prefix": "hf1_", "other prefix": "hf2_" + good[4:], "cut": good[:len(good)-1], "one more": good + "A",
		"padding": good + "=", "inside space": good[:20] + " " + good[20:], "standard alphabet": "hf1_+/" + good[6:],
		"upper prefix": "HF1_" + good[4:],
	} {
		_, err := ParseToken(s)
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: got %v, want ErrToken", name, err)
			continue
		}
		if len(s) > 20 && strings.Contains(err.Error(), s[6:16]) {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
	for n := range good {
		if _, err := ParseToken(good[:n]); !errors.Is(err, ErrToken) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if got, err := ParseToken(" \n" + good + "\r\n"); err != nil || *got != *token {
		t.Errorf("surrounding space: %v", err)
	}
}

// No way of printing a token shows its seed.
func TestTokensDoNotPrint(t *testing.T) {
	tok := NewToken(ident.KeyID{1})
	secret := tok.Reveal()[4+11 : 4+11+40]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		s := fmt.Sprintf(verb, tok)
		if strings.Contains(s, secret) || strings.Contains(s, fmt.Sprintf("%d", tok.seed[0])+" "+fmt.Sprintf("%d", tok.seed[1])) {
			t.Errorf("%s prints the seed: %s", verb, s)
		}
	}
	other := NewToken(ident.KeyID{1})
	if tok.ID == other.ID || tok.seed == other.seed || tok.Public().Equal(other.Public()) {
		t.Error("two tokens are alike")
	}
}

func TestTokenIDs(t *testing.T) {
	if got, err := ParseTokenID(token.ID.String()); err != nil || got != token.ID {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "01", "010203040506070", "01020304050607080", "010203040506070X", "01020304050607AB", "0102030405060708ff"} {
		if _, err := ParseTokenID(s); err == nil {
			t.Errorf("%q is a token id", s)
		}
	}
}
