package beat

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

func frame(t *testing.T, seq uint32) []byte {
	t.Helper()
	h := New(seq)
	b, err := h.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExchange(t *testing.T) {
	now := time.UnixMilli(1_790_000_000_123)
	request := frame(t, 70_000)
	if n := len(request); n < 30 || n > 50 {
		t.Errorf("a heartbeat has %d bytes on the wire, want some forty", n)
	}
	message, err := NewReader(bytes.NewReader(request)).Next()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := AppendAnswer([]byte("before"), message, now)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := bytes.CutPrefix(reply, []byte("before"))
	if !ok {
		t.Fatalf("answer %x overwrote what was there", reply)
	}
	message, err = NewReader(bytes.NewReader(rest)).Next()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := ParseAnswer(message)
	want := Answer{Seq: 70_000, Desired: New(1).Desired, Now: now.UnixMilli()}
	if err != nil || answer != want {
		t.Errorf("%+v, %v, want %+v", answer, err, want)
	}
}

func TestReaderCutsAnyPieces(t *testing.T) {
	var stream []byte
	for seq := range uint32(200) {
		stream = append(stream, frame(t, seq)...)
	}
	stream = append(stream, 0)                               // an empty message
	stream = append(stream, 255)                             // the longest one
	stream = append(stream, bytes.Repeat([]byte{7}, 255)...) // (its content)
	for name, r := range map[string]io.Reader{
		"whole":    bytes.NewReader(stream),
		"bytes":    iotest.OneByteReader(bytes.NewReader(stream)),
		"halves":   iotest.HalfReader(bytes.NewReader(stream)),
		"with EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			messages := NewReader(r)
			for seq := range uint32(200) {
				m, err := messages.Next()
				if err != nil || !bytes.Equal(m, frame(t, seq)[1:]) {
					t.Fatalf("message %d: %x, %v", seq, m, err)
				}
			}
			if m, err := messages.Next(); err != nil || len(m) != 0 {
				t.Errorf("empty message: %x, %v", m, err)
			}
			if m, err := messages.Next(); err != nil || len(m) != 255 {
				t.Errorf("longest message: %x, %v", m, err)
			}
			if m, err := messages.Next(); err != io.EOF { //nolint:errorlint // the contract is io.EOF itself
				t.Errorf("end: %x, %v, want io.EOF", m, err)
			}
		})
	}
}

func TestReaderTellsTruncation(t *testing.T) {
	whole := frame(t, 5)
	for n := 1; n < len(whole); n++ {
		if m, err := NewReader(bytes.NewReader(whole[:n])).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %x, %v, want io.ErrUnexpectedEOF", n, len(whole), m, err)
		}
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	if _, err := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(frame(t, 5))))).Next(); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("%v, want the reader's own error", err)
	}
}

func TestMalformedMessages(t *testing.T) {
	message := frame(t, 9)[1:]
	for n := range message {
		if out, err := AppendAnswer(nil, message[:n], time.Now()); err == nil || len(out) != 0 {
			t.Errorf("%d of %d bytes were answered: %x", n, len(message), out)
		}
		if _, err := ParseAnswer(message[:n]); err == nil {
			t.Errorf("%d bytes of a heartbeat are an answer", n)
		}
	}
	if _, err := ParseAnswer(message); err == nil {
		t.Error("a heartbeat is an answer")
	}
}

func TestTooLong(t *testing.T) {
	h := New(1)
	h.Digest = make([]byte, 256)
	if out, err := h.AppendFrame([]byte{1}); !errors.Is(err, ErrTooLong) || len(out) != 1 {
		t.Errorf("%x, %v, want ErrTooLong and nothing appended", out, err)
	}
}

func FuzzServer(f *testing.F) {
	h := New(1)
	good, err := h.AppendFrame(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0, 1, 0x80, 2, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		messages := NewReader(bytes.NewReader(stream))
		for {
			m, err := messages.Next()
			if err != nil {
				return
			}
			out, err := AppendAnswer(nil, m, time.UnixMilli(1))
			if err != nil {
				continue
			}
			if _, err := ParseAnswer(out[1:]); err != nil {
				t.Fatalf("own answer %x: %v", out, err)
			}
		}
	})
}
