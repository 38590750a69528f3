package content

import (
	"bytes"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// The core has parts of manifests as it stores them. They are decoded here, because the parts of one are one file.
func TestCompressedPart(t *testing.T) {
	t.Parallel()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	plain := bytes.Repeat([]byte("manifest "), 200)
	s, k := new(Site), cache.Key{Kind: wire.ContentManifest, Digest: wire.DigestOf(plain)}
	for what, c := range map[string]struct {
		blob wire.Blob
		want error
	}{
		"raw":           {wire.Blob{Data: plain, Total: 1800}, nil},
		"compressed":    {wire.Blob{Codec: wire.CodecZstd, Data: enc.EncodeAll(plain, nil), Total: 1800}, nil},
		"of another":    {wire.Blob{Codec: wire.CodecZstd, Data: enc.EncodeAll(plain, nil), Total: 1801}, wire.ErrMalformed},
		"a bomb":        {wire.Blob{Codec: wire.CodecZstd, Data: enc.EncodeAll(make([]byte, 2*wire.MaxPart), nil), Total: 2 * wire.MaxPart}, artifact.ErrChunk},
		"nothing":       {wire.Blob{Codec: wire.CodecZstd, Data: enc.EncodeAll(nil, nil), Total: 1800}, artifact.ErrChunk},
		"no frame":      {wire.Blob{Codec: wire.CodecZstd, Data: plain, Total: 1800}, artifact.ErrChunk},
		"unknown codec": {wire.Blob{Codec: 9, Data: plain, Total: 1800}, artifact.ErrChunk},
	} {
		b := c.blob
		if err := s.check(k, 0, &b, source{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		} else if err == nil && (b.Codec != wire.CodecRaw || !bytes.Equal(b.Data, plain)) {
			t.Errorf("%s: goes on as %d bytes of codec %d", what, len(b.Data), b.Codec)
		}
	}
}
