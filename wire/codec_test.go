package wire

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// allocated is how many bytes one call of f allocates, over an average of some.
func allocated(f func()) int {
	const runs = 20
	var before, after runtime.MemStats
	f()
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc-before.TotalAlloc) / runs
}

// nested is an array in an array, n deep.
func nested(n int) string { return strings.Repeat("\x81", n-1) + "\x80" }

func TestCodecRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":                         "",
		"duplicate key":                   "\xa2\x01\x01\x01\x02",
		"duplicate unknown key":           "\xa2\x18\x63\x01\x18\x63\x02",
		"duplicate key in another width":  "\xa2\x01\x01\x18\x01\x02",
		"map of indefinite length":        "\xbf\x01\x01\xff",
		"bytes of indefinite length":      "\xa1\x18\x63\x5f\x41\x00\xff",
		"text of indefinite length":       "\xa1\x18\x63\x7f\x61\x41\xff",
		"array of indefinite length":      "\xa1\x18\x63\x9f\xff",
		"tag":                             "\xa1\x18\x63\xc1\x01",
		"bignum":                          "\xa1\x02\xc2\x41\x01",
		"tag around everything":           "\xd8\x18\xa0",
		"NaN":                             "\xa1\x18\x63\xf9\x7e\x00",
		"infinity":                        "\xa1\x18\x63\xf9\x7c\x00",
		"invalid UTF-8":                   "\xa1\x03\x62\xff\xfe",
		"half a character":                "\xa1\x03\x61\xc3",
		"trailing byte":                   "\xa0\x00",
		"two maps":                        "\xa0\xa0",
		"not a map":                       "\x01",
		"an array for a struct":           "\x81\x01",
		"text key for an integer key":     "\xa1\x61\x31",
		"too deep":                        "\xa1\x18\x63" + nested(maxNesting),
		"negative for unsigned":           "\xa1\x02\x20",
		"number too large for its field":  "\xa1\x02\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
		"float for an integer":            "\xa1\x02\xf9\x3c\x00",
		"bytes for text":                  "\xa1\x03\x41\x41",
		"reserved additional information": "\x1c",
	} {
		if err := Unmarshal([]byte(in), new(Error)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

func TestCodecAccepts(t *testing.T) {
	for name, in := range map[string]string{
		"nothing set":            "\xa0",
		"unknown key":            "\xa2\x01\x04\x18\x63\x01",
		"unknown key with depth": "\xa2\x01\x04\x18\x63" + nested(maxNesting-1),
		"text key":               "\xa2\x01\x04\x61\x78\x01",
		"null":                   "\xa2\x01\x04\x03\xf6",
	} {
		var e Error
		if err := Unmarshal([]byte(in), &e); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name != "nothing set" && e.Code != CodeBusy {
			t.Errorf("%s: code %v, want busy", name, e.Code)
		}
	}
}

// A header may claim any number of elements. Only what comes is paid for.
func TestHugeHeadersAllocateLittle(t *testing.T) {
	for name, in := range map[string]string{
		"array of 2^32":               "\xa1\x03\x9a\xff\xff\xff\xff",
		"array of 2^63":               "\xa1\x03\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
		"array over the limit":        "\xa1\x03\x99\x10\x01" + strings.Repeat("\x40", 4097),
		"array at the limit, cut":     "\xa1\x03\x99\x10\x00",
		"map of 2^32":                 "\xa1\x18\x63\xba\xff\xff\xff\xff",
		"map over the limit":          "\xa1\x18\x63\xb8\x41" + strings.Repeat("\x00\x00", 65),
		"byte string of 2^32":         "\xa1\x18\x63\x5a\xff\xff\xff\xff",
		"byte string of 2^64 less 1":  "\xa1\x18\x63\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
		"text of 2^32":                "\xa1\x18\x63\x7a\xff\xff\xff\xff",
		"arrays of 4096 in an array":  "\xa1\x03\x99\x10\x00" + strings.Repeat("\x99\x10\x00", 8),
		"byte string longer than all": "\xa1\x03\x81\x59\xff\xff\x00",
	} {
		b := []byte(in)
		n := allocated(func() {
			if err := Unmarshal(b, new(Submit)); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s: got %v, want ErrMalformed", name, err)
			}
		})
		if n > 4<<10 {
			t.Errorf("%s: %d bytes of input made the decoder allocate %d", name, len(b), n)
		}
	}
}

// What a full frame may make the decoder allocate stays a small multiple of the frame.
func TestAmplificationIsBounded(t *testing.T) {
	frame := append([]byte("\xa1\x02\x99\x10\x00"), bytes.Repeat([]byte{0xa0}, maxElements)...)
	n := allocated(func() {
		var s Submitted
		if err := Unmarshal(frame, &s); err != nil || len(s.Results) != maxElements {
			t.Fatalf("%d results, %v", len(s.Results), err)
		}
	})
	if n > 100*len(frame) {
		t.Errorf("%d bytes of input made the decoder allocate %d", len(frame), n)
	}
}

// An id of another length is not an id: filled up or cut it would be one of several inputs that mean the same device.
func TestDeviceIDsHaveOneEncoding(t *testing.T) {
	for name, in := range map[string]string{
		"short":                "\xa1\x01\x4f" + strings.Repeat("\x01", 15),
		"long":                 "\xa1\x01\x51" + strings.Repeat("\x01", 17),
		"empty":                "\xa1\x01\x40",
		"length in two bytes":  "\xa1\x01\x58\x10" + strings.Repeat("\x01", 16),
		"array of integers":    "\xa1\x01\x90" + strings.Repeat("\x01", 16),
		"text":                 "\xa1\x01\x70" + strings.Repeat("\x01", 16),
		"null":                 "\xa1\x01\xf6",
		"number":               "\xa1\x01\x01",
		"map":                  "\xa1\x01\xa0",
		"two ids in one field": "\xa1\x01\x58\x20" + strings.Repeat("\x01", 32),
	} {
		if err := Unmarshal([]byte(in), new(Ask)); !errors.Is(err, ErrMalformed) || !errors.Is(err, ident.ErrID) && name == "short" {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

func TestEncodingIsDeterministic(t *testing.T) {
	m := map[string]string{"b": "1", "a": "2", "aa": "3", "c": "4", "z": "5"}
	first, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if b, err := Marshal(m); err != nil || !bytes.Equal(b, first) {
			t.Fatalf("the same map encodes in two ways: %v", err)
		}
	}
	if _, err := Marshal(func() {}); err == nil {
		t.Error("a function was encoded")
	}
}
