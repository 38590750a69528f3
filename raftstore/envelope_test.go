package raftstore

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

var samplePos = position{index: 0x0102, term: 3, timeMS: 1_700_000_000_123}

func seal(tb testing.TB, content []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	check(tb, writeEnvelope(&b, samplePos, func(w io.Writer) error { _, err := w.Write(content); return err }))
	return b.Bytes()
}

func unseal(r io.Reader) ([]byte, position, error) {
	e, err := newEnvelopeReader(r)
	if err != nil {
		return nil, position{}, err
	}
	content, err := io.ReadAll(e)
	return content, e.pos, err
}

func TestEnvelopeRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 31, 32, 33, 64, envelopeBuffer - 1, envelopeBuffer, 3*envelopeBuffer + 17} {
		want := bytes.Repeat([]byte{0xab}, size)
		sealed := seal(t, want)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(sealed), "halves": iotest.HalfReader(bytes.NewReader(sealed)),
			"with EOF": iotest.DataErrReader(bytes.NewReader(sealed)),
		} {
			got, pos, err := unseal(r)
			if err != nil || !bytes.Equal(got, want) || pos != samplePos {
				t.Errorf("%d bytes, %s: %d bytes, position %+v, error %v", size, name, len(got), pos, err)
			}
		}
	}
}

func TestEnvelopeTruncatedAnywhere(t *testing.T) {
	sealed := seal(t, []byte("some content that is longer than the trailer itself"))
	for n := range sealed {
		if _, _, err := unseal(bytes.NewReader(sealed[:n])); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the first %d of %d bytes: %v", n, len(sealed), err)
		}
	}
}

func TestEnvelopeBitFlips(t *testing.T) {
	sealed := seal(t, []byte("some content"))
	for i := range len(sealed) * 8 {
		sealed[i/8] ^= 1 << (i % 8)
		if _, _, err := unseal(bytes.NewReader(sealed)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
		sealed[i/8] ^= 1 << (i % 8)
	}
}

func TestEnvelopePassesErrorsOn(t *testing.T) {
	sealed := seal(t, []byte("some content"))
	for n := range sealed {
		_, _, err := unseal(io.MultiReader(bytes.NewReader(sealed[:n]), iotest.ErrReader(iotest.ErrTimeout)))
		wantError(t, err, iotest.ErrTimeout)
		if errors.Is(err, ErrCorrupt) {
			t.Errorf("an error of the disk after %d bytes counts as damage, so that the snapshot would be passed over for ever", n)
		}
	}
	broken := errors.New("disk full")
	err := writeEnvelope(io.Discard, samplePos, func(io.Writer) error { return broken })
	wantError(t, err, broken)
}

func FuzzEnvelopeReader(f *testing.F) {
	f.Add(seal(f, nil))
	f.Add(seal(f, []byte("content")))
	f.Fuzz(func(t *testing.T, b []byte) {
		content, pos, err := unseal(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		check(t, writeEnvelope(&again, pos, func(w io.Writer) error { _, err := w.Write(content); return err }))
		if !bytes.Equal(again.Bytes(), b) {
			t.Fatal("what was accepted is not what is written")
		}
	})
}
