package ident_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

const uuid = "018f3c5d-7a01-4bcd-8ef0-123456789abc"

func TestIDsReadBack(t *testing.T) {
	d, err := ident.ParseDeviceID(uuid)
	if err != nil {
		t.Fatal(err)
	}
	for want, id := range map[string]ident.ID{
		"spiffe://plant/device/" + uuid:           ident.Device("plant", d),
		"spiffe://plant.example/gateway/berlin/a": ident.Gateway("plant.example", "berlin", "a"),
		"spiffe://plant/core/core-1":              ident.Core("plant", "core-1"),
		"spiffe://plant/api/core-1":               ident.API("plant", "core-1"),
		"spiffe://plant/authority":                ident.Authority("plant"),
	} {
		if id.String() != want || id.URL().String() != want {
			t.Errorf("id is %s, as URL %s, want %s", id, id.URL(), want)
		}
		if got, err := ident.Parse(want); err != nil || got != id {
			t.Errorf("%s reads as %+v, %v", want, got, err)
		}
		if id.IsZero() {
			t.Errorf("%s is zero", want)
		}
	}
}

func TestWhatIsNoID(t *testing.T) {
	for _, s := range []string{
		"", "spiffe://", "spiffe:///device/" + uuid, "spiffe://plant", "spiffe://plant/", "http://plant/core/a", "SPIFFE://plant/core/a",
		"spiffe://plant/device/" + strings.ToUpper(uuid), "spiffe://plant/device/" + uuid + "/", "spiffe://plant/device/" + uuid[:35],
		"spiffe://plant/device/" + strings.ReplaceAll(uuid, "-", ""), "spiffe://plant/device/{" + uuid + "}", "spiffe://plant/device",
		"spiffe://plant/device/----" + strings.Repeat("0", 32), "spiffe://plant/device/" + uuid[:35] + "g",
		"spiffe://plant/device//" + uuid, "spiffe://plant/gateway/berlin", "spiffe://plant/gateway//a", "spiffe://plant/gateway/berlin/a/b",
		"spiffe://plant/gateway/Berlin/a", "spiffe://plant/gateway/../a", "spiffe://plant/core/", "spiffe://plant/core/-a",
		"spiffe://plant/core/a%20", "spiffe://plant/core/a?x=1", "spiffe://plant/core/a#x", "spiffe://u@plant/core/a", "spiffe://plant:1/core/a",
		"spiffe://Plant/core/a", "spiffe://pl_ant/core/a", "spiffe://.plant/core/a", "spiffe://plant/root", "spiffe://plant/authority/a",
		"spiffe://plant/ca/device", "spiffe://plant/core/" + strings.Repeat("a", 64), "spiffe://" + strings.Repeat("a", 600) + "/core/a",
		"spiffe://plant/core/a\n", " spiffe://plant/core/a", "spiffe://plant/core/a\x00",
	} {
		if got, err := ident.Parse(s); !errors.Is(err, ident.ErrID) || !got.IsZero() {
			t.Errorf("%q: got %v, %v, want ErrID", s, got, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}

func TestDeviceIDsAreRandomUUIDs(t *testing.T) {
	a, b := ident.NewDeviceID(), ident.NewDeviceID()
	if a == b || a.IsZero() || !new(ident.DeviceID).IsZero() {
		t.Error("ids are not distinct")
	}
	if a[6]>>4 != 4 || a[8]>>6 != 2 {
		t.Errorf("%v is no UUID of version 4", a)
	}
}

func TestDeviceIDsDecodeWhole(t *testing.T) {
	good := append([]byte{0x50}, make([]byte, 16)...)
	good[16] = 7
	var d ident.DeviceID
	if err := d.UnmarshalCBOR(good); err != nil || d[15] != 7 {
		t.Errorf("%v, %v", d, err)
	}
	for _, b := range [][]byte{nil, {0x50}, good[:16], append(good, 0), append([]byte{0x58, 16}, good[1:]...)} {
		if err := d.UnmarshalCBOR(b); !errors.Is(err, ident.ErrID) {
			t.Errorf("%x: got %v, want ErrID", b, err)
		}
	}
}

func TestKeyIDsDecodeWhole(t *testing.T) {
	good := append([]byte{0x58, 32}, make([]byte, 32)...)
	good[33] = 7
	var k ident.KeyID
	if err := k.UnmarshalCBOR(good); err != nil || k[31] != 7 {
		t.Errorf("%v, %v", k, err)
	}
	for _, b := range [][]byte{nil, {0x58}, good[:33], append(good, 0), append([]byte{0x59, 0, 32}, good[2:]...)} {
		if err := k.UnmarshalCBOR(b); !errors.Is(err, ident.ErrID) {
			t.Errorf("%x: got %v, want ErrID", b, err)
		}
	}
}

func TestNames(t *testing.T) {
	for s, ok := range map[string]bool{
		"a": true, "core-1": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "a-": false, "-a": false, "A": false, "a.b": false, "a\n": false, "ä": false,
	} {
		if err := ident.CheckName("site", s); (err == nil) != ok {
			t.Errorf("name %q: %v", s, err)
		}
	}
	if err := ident.CheckFleet("plant.example-1"); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://plant/device/" + uuid)
	f.Add("spiffe://plant/gateway/berlin/a")
	f.Add("spiffe://plant/core/core-1")
	f.Add("spiffe://plant/api/core-1")
	f.Add("spiffe://plant/authority")
	f.Add("spiffe://plant/core/a%20?x#y")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ident.Parse(s)
		if err != nil {
			if !errors.Is(err, ident.ErrID) {
				t.Fatalf("%v is not ErrID", err)
			}
			return
		}
		if id.String() != s || id.URL().String() != s {
			t.Fatalf("%q is written as %q, as URL %q", s, id, id.URL())
		}
	})
}
