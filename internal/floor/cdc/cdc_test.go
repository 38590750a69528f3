package cdc

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestCut(t *testing.T) {
	b := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	s := Sizes{16 << 10, 64 << 10, 256 << 10}
	n, _, err := Cut(bytes.NewReader(b), "fastcdc-v1.0.0", s)
	if err != nil || n < len(b)/s.Max || n > len(b)/s.Min {
		t.Errorf("%d chunks, error %v", n, err)
	}
	d := sha256.Sum256(b[:100])
	if n, sum, err := Cut(bytes.NewReader(b[:100]), "fastcdc-v1.0.0", s); err != nil || n != 1 || sum != d[31] {
		t.Errorf("100 bytes are %d chunks, error %v", n, err)
	}
	if n, _, err := Cut(bytes.NewReader(nil), "fastcdc-v1.0.0", s); err != nil || n != 0 {
		t.Errorf("nothing is %d chunks, error %v", n, err)
	}
	broken := errors.New("broken")
	if _, _, err := Cut(iotest.ErrReader(broken), "fastcdc-v1.0.0", s); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, _, err := Cut(bytes.NewReader(b), "none", s); err == nil {
		t.Error("an algorithm that is not there")
	}
}
