package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// rawFrame is a frame of type t with an undecoded body.
func rawFrame(t Type, body []byte) []byte {
	b := appendType([]byte{0, 0, 0, 0}, t)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-lenSize))
	return b
}

// stream is every golden frame one after the other, in the order of the types, and the types.
func stream(tb testing.TB) (b []byte, order []Type) {
	tb.Helper()
	for typ := range types {
		order = append(order, typ)
	}
	slices.Sort(order)
	for _, typ := range order {
		b = append(b, golden(tb, typ, nil)...)
	}
	return b, order
}

func TestTruncatedGoldenFrames(t *testing.T) {
	for typ, m := range samples() {
		frame := golden(t, typ, nil)
		for n := range frame {
			_, _, err := NewFrameReader(bytes.NewReader(frame[:n]), MaxFrame).Next()
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if !errors.Is(err, want) {
				t.Fatalf("%v cut at %d of %d: got %v, want %v", typ, n, len(frame), err, want)
			}
		}
		_, head, err := parseType(frame[lenSize:])
		if err != nil {
			t.Fatal(err)
		}
		body := frame[lenSize+head:]
		for n := range body {
			if err := Unmarshal(body[:n], fresh(m)); !errors.Is(err, ErrMalformed) {
				t.Fatalf("message of %v cut at %d of %d: got %v, want ErrMalformed", typ, n, len(body), err)
			}
		}
	}
}

// However the bytes arrive, the same frames come out.
func TestTrickledReadsEqualWholeReads(t *testing.T) {
	b, order := stream(t)
	big := rawFrame(TypeSubmit, bytes.Repeat([]byte{5}, 100_000))
	exact := rawFrame(TypeAsk, bytes.Repeat([]byte{6}, smallFrame-lenSize-2))
	b, order = append(append(b, big...), exact...), append(order, TypeSubmit, TypeAsk)
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(b),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(b)),
		"half reads":    iotest.HalfReader(bytes.NewReader(b)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		f := NewFrameReader(r, MaxFrame)
		var again []byte
		for i := 0; ; i++ {
			typ, body, err := f.Next()
			if errors.Is(err, io.EOF) {
				if i != len(order) {
					t.Errorf("%s: %d frames, want %d", name, i, len(order))
				}
				break
			}
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if typ != order[i] {
				t.Fatalf("%s: frame %d is %v, want %v", name, i, typ, order[i])
			}
			again = append(again, rawFrame(typ, body)...)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%s: frames differ from what was sent", name)
		}
	}
}

// A failure of the stream is not a malformed peer.
func TestReadErrorsPass(t *testing.T) {
	boom := errors.New("boom")
	frame := golden(t, TypeEnrolled, nil)
	big := rawFrame(TypeSubmit, make([]byte, 1000))
	for _, b := range [][]byte{nil, frame[:3], frame[:5], frame[:len(frame)-1], big[:6], big[:700]} {
		_, _, err := NewFrameReader(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(boom)), MaxFrame).Next()
		if !errors.Is(err, boom) || errors.Is(err, ErrMalformed) {
			t.Errorf("after %d bytes: got %v, want the stream's own error", len(b), err)
		}
	}
}

// counted counts what is read from it, which is the rest of its zeros once head is used up.
type counted struct {
	head []byte
	n    int
}

func (c *counted) Read(p []byte) (int, error) {
	k := copy(p, c.head)
	c.head = c.head[k:]
	clear(p[k:])
	c.n += len(p)
	return len(p), nil
}

func TestOverLimitIsRefusedBeforeTheBody(t *testing.T) {
	check := func(name string, head []byte, limit int) {
		t.Helper()
		r := &counted{head: head}
		f := NewFrameReader(r, limit)
		allocs := allocated(func() {
			r.head, r.n = head, 0
			f.i, f.j = 0, 0
			if _, _, err := f.Next(); !errors.Is(err, ErrFrameTooLarge) {
				t.Fatalf("%s: got %v, want ErrFrameTooLarge", name, err)
			}
		})
		if r.n > smallFrame {
			t.Errorf("%s: %d bytes were read, want at most %d", name, r.n, smallFrame)
		}
		if allocs > 1024 {
			t.Errorf("%s: %d bytes were allocated to refuse a frame", name, allocs)
		}
	}
	head := func(n int, typ Type) []byte {
		return appendType(binary.BigEndian.AppendUint32(nil, uint32(n)), typ)
	}
	check("submit on an agent's link", head(MaxFrame, TypeSubmit), 64<<10)
	check("unknown type", head(unknownLimit+1, 9999), MaxFrame)
	check("heartbeat", head(513, TypeHeartbeat), MaxFrame)
}

func TestEveryTypeHasItsLimit(t *testing.T) {
	for typ, d := range types {
		if d.limit > MaxFrame || d.limit < 64 || d.name == "" {
			t.Errorf("type %d: name %q, limit %d", typ, d.name, d.limit)
		}
		for _, over := range []int{0, 1} {
			if d.limit+over > MaxFrame {
				continue
			}
			size := d.limit + over - len(appendType(nil, typ))
			_, body, err := NewFrameReader(bytes.NewReader(rawFrame(typ, make([]byte, size))), MaxFrame).Next()
			if over == 0 && (err != nil || len(body) != size) {
				t.Errorf("%v at its limit: %v", typ, err)
			}
			if over == 1 && !errors.Is(err, ErrFrameTooLarge) {
				t.Errorf("%v over its limit: %v", typ, err)
			}
		}
		if _, err := AppendFrame(nil, typ, Statement{Sealed: make([]byte, d.limit)}); !errors.Is(err, ErrFrameTooLarge) {
			t.Errorf("%v over its limit was written: %v", typ, err)
		}
	}
}

func TestBadHeads(t *testing.T) {
	for name, tc := range map[string]struct {
		frame []byte
		want  error
	}{
		"length zero":               {[]byte{0, 0, 0, 0}, ErrMalformed},
		"length zero and more":      {[]byte{0, 0, 0, 0, 1, 0xa0}, ErrMalformed},
		"length over all limits":    {[]byte{0, 0x10, 0, 1, 1, 0xa0}, ErrMalformed},
		"length of 4 GiB":           {[]byte{0xff, 0xff, 0xff, 0xff, 1, 0xa0}, ErrMalformed},
		"type alone":                {[]byte{0, 0, 0, 1, 1}, ErrFrameShort},
		"two-byte type alone":       {[]byte{0, 0, 0, 2, 24, 32}, ErrFrameShort},
		"type cut by the length":    {[]byte{0, 0, 0, 1, 24, 32, 0xa0}, ErrFrameShort},
		"long type cut":             {[]byte{0, 0, 0, 2, 25, 1, 0, 0xa0}, ErrFrameShort},
		"type 1 in two bytes":       {[]byte{0, 0, 0, 3, 24, 1, 0xa0}, ErrMalformed},
		"type 32 in three bytes":    {[]byte{0, 0, 0, 4, 25, 0, 32, 0xa0}, ErrMalformed},
		"type in five bytes":        {[]byte{0, 0, 0, 6, 26, 0, 0, 0, 1, 0xa0}, ErrMalformed},
		"negative type":             {[]byte{0, 0, 0, 2, 0x20, 0xa0}, ErrMalformed},
		"type is a byte string":     {[]byte{0, 0, 0, 2, 0x41, 0xa0}, ErrMalformed},
		"type is a map":             {[]byte{0, 0, 0, 2, 0xa0, 0xa0}, ErrMalformed},
		"type of indefinite length": {[]byte{0, 0, 0, 2, 0x1f, 0xa0}, ErrMalformed},
	} {
		if _, _, err := NewFrameReader(bytes.NewReader(tc.frame), MaxFrame).Next(); !errors.Is(err, tc.want) || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func TestUnknownTypesAreSkipped(t *testing.T) {
	b := rawFrame(200, make([]byte, unknownLimit-2))
	b = append(b, rawFrame(65535, []byte{0xa0})...)
	b = append(b, golden(t, TypeAsk, nil)...)
	f := NewFrameReader(bytes.NewReader(b), MaxFrame)
	for _, want := range []Type{200, 65535, TypeAsk} {
		if typ, _, err := f.Next(); err != nil || typ != want {
			t.Fatalf("got %v, %v, want %v", typ, err, want)
		}
	}
}

func TestTypesReadBack(t *testing.T) {
	for n := range 1 << 16 {
		b := appendType(nil, Type(n))
		for cut := range b {
			if _, k, err := parseType(b[:cut]); k != 0 || err != nil {
				t.Fatalf("type %d cut at %d: took %d bytes, %v", n, cut, k, err)
			}
		}
		if typ, k, err := parseType(b); typ != Type(n) || k != len(b) || err != nil {
			t.Fatalf("type %d reads as %d, %d bytes, %v", n, typ, k, err)
		}
	}
}

func TestAppendFrameKeepsWhatIsThere(t *testing.T) {
	dst := []byte("before")
	got, err := AppendFrame(dst, TypeAsk, Ask{})
	if err != nil || !strings.HasPrefix(string(got), "before") {
		t.Fatalf("%q, %v", got, err)
	}
	got, err = AppendFrame(dst, TypeAsk, func() {})
	if err == nil || string(got) != "before" {
		t.Errorf("after an error: %q, %v", got, err)
	}
	if _, err := AppendFrame(nil, TypeHeartbeat, Heartbeat{Running: make([]byte, 600)}); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("a heartbeat of 600 bytes was written: %v", err)
	}
}

// A connection at rest must not cost an allocation for each heartbeat.
func TestSmallFramesAllocateNothing(t *testing.T) {
	frame := golden(t, TypeHeartbeat, nil)
	r := bytes.NewReader(frame)
	f := NewFrameReader(r, MaxFrame)
	if n := testing.AllocsPerRun(100, func() {
		r.Reset(frame)
		if _, _, err := f.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a heartbeat", n)
	}
}

func ExampleFrameReader() {
	b, err := AppendFrame(nil, TypeGoAway, GoAway{RetryAfterMS: 2000})
	if err != nil {
		fmt.Println(err)
		return
	}
	t, body, err := NewFrameReader(bytes.NewReader(b), 64<<10).Next()
	if err != nil {
		fmt.Println(err)
		return
	}
	var m GoAway
	err = Unmarshal(body, &m)
	fmt.Println(t, m.RetryAfterMS, err)
	// Output: go_away 2000 <nil>
}
