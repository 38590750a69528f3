package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

func FuzzFrameReader(f *testing.F) {
	all, _ := stream(f)
	f.Add(all)
	for typ := range types {
		f.Add(golden(f, typ, nil))
	}
	f.Add(rawFrame(TypeSubmit, make([]byte, 1000)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 25, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, trickled := NewFrameReader(bytes.NewReader(b), MaxFrame), NewFrameReader(iotest.OneByteReader(bytes.NewReader(b)), MaxFrame)
		for rest := b; ; {
			typ, body, err := whole.Next()
			typ2, body2, err2 := trickled.Next()
			if typ != typ2 || !bytes.Equal(body, body2) || (err == nil) != (err2 == nil) {
				t.Fatalf("whole: %v %x %v, trickled: %v %x %v", typ, body, err, typ2, body2, err2)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrMalformed) {
					t.Fatalf("a reader that only ends made %v", err)
				}
				return
			}
			again := rawFrame(typ, body)
			if !bytes.HasPrefix(rest, again) || len(again)-lenSize > typ.Limit() {
				t.Fatalf("frame %v is not what was sent", typ)
			}
			rest = rest[len(again):]
		}
	})
}

// One target for all messages: the type chooses which. What decodes must encode, and then decode to the same.
func FuzzUnmarshal(f *testing.F) {
	all := samples()
	for typ := range types {
		frame := golden(f, typ, nil)
		_, k, err := parseType(frame[lenSize:])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(typ), frame[lenSize+k:])
	}
	f.Add(uint16(TypeSubmit), []byte("\xa1\x03\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, typ uint16, b []byte) {
		m := all[Type(typ)]
		if m == nil {
			return
		}
		first := fresh(m)
		if err := Unmarshal(b, first); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		again, err := Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		second := fresh(m)
		if err := Unmarshal(again, second); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		third, err := Marshal(second)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("%x encodes again as %x, %v", again, third, err)
		}
	})
}

func FuzzCheckTags(f *testing.F) {
	f.Add("line", "3")
	f.Add("site", "berlin")
	f.Add("area/line.robot_1-b", "halle ü")
	f.Add("K", "\u202e")
	f.Fuzz(func(t *testing.T, k, v string) {
		err := CheckTags(map[string]string{k: v})
		if err != nil && !errors.Is(err, ErrTags) {
			t.Fatalf("%v is not ErrTags", err)
		}
		if one := CheckTag(k, v); (one == nil) != (err == nil) {
			t.Fatalf("%q=%q: %v alone, %v in a map", k, v, one, err)
		}
		if err != nil {
			return
		}
		var back map[string]string
		b, err := Marshal(map[string]string{k: v})
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, map[string]string{k: v}) {
			t.Fatalf("accepted tag %q=%q does not travel: %v", k, v, err)
		}
	})
}
