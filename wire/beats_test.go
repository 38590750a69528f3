package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestBeats(t *testing.T) {
	t.Parallel()
	var p BeatPacker
	want := make(map[uint32]time.Duration)
	for _, c := range []struct {
		slot      uint32
		age, told time.Duration
	}{
		{0, 0, 0},
		{1, time.Millisecond, BeatUnit},
		{7, -time.Second, 0},
		{200, 12700 * time.Millisecond, 12700 * time.Millisecond},
		{math.MaxUint32, time.Hour, time.Hour},
	} {
		p.Add(c.slot, c.age)
		want[c.slot] = c.told
	}
	b, err := Marshal(p.Beats())
	if err != nil {
		t.Fatal(err)
	}
	var got Beats
	if err := Unmarshal(b, &got); err != nil || p.Len() != len(want) {
		t.Fatal(err, p.Len())
	}
	if all := maps.Collect(got.All()); !maps.Equal(all, want) {
		t.Errorf("%v, want %v", all, want)
	}
}

// A plant of a thousand devices that beat in turn: two bytes each.
func TestBeatsAreSmall(t *testing.T) {
	t.Parallel()
	var p BeatPacker
	for slot := uint32(0); slot < 1000; slot += 1 + rand.Uint32N(5) {
		p.Add(slot, rand.N(10*time.Second))
	}
	if len(p.Beats()) != 2*p.Len() {
		t.Errorf("%d devices in %d bytes", p.Len(), len(p.Beats()))
	}
}

func TestBeatsRefused(t *testing.T) {
	t.Parallel()
	var many BeatPacker
	for slot := range uint32(MaxBeats + 1) {
		many.Add(slot, 0)
	}
	for name, b := range map[string][]byte{
		"no age":           {0x00},
		"cut in a varint":  {0x00, 0x80},
		"slot too great":   {0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x00, 0x00},
		"gap too great":    {0x80, 0x80, 0x80, 0x80, 0x10, 0x00},
		"age too great":    {0x00, 0x80, 0x80, 0x80, 0x80, 0x10},
		"varint too long":  bytes.Repeat([]byte{0xff}, 11),
		"too many devices": many.Beats(),
	} {
		data, err := Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var got Beats
		if err := Unmarshal(data, &got); !errors.Is(err, ErrMalformed) || got != nil {
			t.Errorf("%s: %v, %d bytes", name, err, len(got))
		}
	}
	for _, data := range []string{"00", "6161", "5f41004100ff"} {
		b, err := hex.DecodeString(data)
		if err != nil {
			t.Fatal(err)
		}
		var got Beats
		if err := Unmarshal(b, &got); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", data, err)
		}
	}
}
