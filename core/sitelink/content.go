package sitelink

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Content is what artifacts consist of. Errors are those of package content.
type Content interface {
	// Get is the stored form of a chunk, from this node or from another.
	Get(ctx context.Context, d wire.Digest) ([]byte, error)
	// Local is the stored form of a chunk, if this node has it.
	Local(d wire.Digest) ([]byte, error)
}

const (
	// maxContent bounds the sessions in which content is fetched, and maxContentEach those of one gateway. Each holds a blob.
	maxContent     = 256
	maxContentEach = 4
	// contentIdle is how long such a session may be silent between two fetches.
	contentIdle = 2 * time.Minute
	// fetchTime bounds the wait for a chunk that this node lacks.
	fetchTime = 30 * time.Second
	// contentRetry is when what cannot be had now may be asked for again.
	contentRetry = 5 * time.Second
)

// takeContent takes a place for a session with content, if there is one. leave must be called when it did.
func (s *Server) takeContent(gw string) (leave func(), ok bool) {
	s.contentMu.Lock()
	defer s.contentMu.Unlock()
	if s.contents >= maxContent || s.contentsOf[gw] >= maxContentEach {
		return nil, false
	}
	if s.contentsOf == nil {
		s.contentsOf = make(map[string]int)
	}
	s.contents++
	s.contentsOf[gw]++
	return func() {
		s.contentMu.Lock()
		defer s.contentMu.Unlock()
		s.contents--
		if s.contentsOf[gw]--; s.contentsOf[gw] == 0 {
			delete(s.contentsOf, gw)
		}
	}, true
}

// serveContent answers a gateway's fetches one after the other, the first of which came already. What the gateway asks for meanwhile
// waits in the connection. The error is what ended the session: a refusal, if the gateway is to hear it.
func (s *Server) serveContent(ctx context.Context, ses *link.Session, c *caller, t wire.Type, body []byte) error {
	leave, ok := s.takeContent(c.gw)
	if !ok {
		return wire.Refuse(wire.CodeBusy, "too many sessions for content are open").After(contentRetry)
	}
	defer leave()
	var frame []byte
	for {
		var f wire.Fetch
		if t != wire.TypeFetch {
			return wire.Refuse(wire.CodeMalformed, "want a fetch, got %v", t)
		}
		if err := wire.Unmarshal(body, &f); err != nil {
			return wire.Refuse(wire.CodeMalformed, "a fetch does not read")
		}
		v := s.Registry.View()
		if g, ok := v.Gateway(c.gw); ok {
			if refusal := retired(g, c.peer.Key); refusal != nil {
				return s.farewell(ses, v, c.gw, refusal)
			}
		}
		blob := s.blob(ctx, v, &f)
		var err error
		if frame, err = wire.AppendFrame(frame[:0], wire.TypeBlob, blob); err != nil {
			return err
		}
		if err := ses.SendFrame(wire.TypeBlob, frame); err != nil {
			return err
		}
		if t, body, err = ses.RecvWithin(contentIdle); err != nil {
			return err
		}
	}
}

// blob is the answer to a fetch.
func (s *Server) blob(ctx context.Context, v registry.View, f *wire.Fetch) *wire.Blob {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	b, err := s.find(ctx, v, f)
	if errors.Is(err, errUnknownContent) { // another node may have committed it a moment ago
		if v, err = s.fresh(ctx); err == nil {
			b, err = s.find(ctx, v, f)
		}
	}
	var refusal *wire.Error
	switch {
	case err == nil:
		return b
	case errors.As(err, &refusal):
		return &wire.Blob{Code: refusal.Code, Detail: refusal.Detail}
	case errors.Is(err, errUnknownContent), errors.Is(err, content.ErrMissing):
		return &wire.Blob{Code: wire.CodeNoContent}
	}
	if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		s.Log.Info("content not served", "kind", f.Kind.String(), "digest", f.Digest, "err", err)
	}
	return &wire.Blob{Code: wire.CodeUnavailable, Detail: "the core cannot get it now", RetryAfterMS: wire.Millis(contentRetry)}
}

// errUnknownContent says that the registry does not know what is fetched.
var errUnknownContent = errors.New("not known")

// find gets what is fetched.
func (s *Server) find(ctx context.Context, v registry.View, f *wire.Fetch) (*wire.Blob, error) {
	switch f.Kind {
	case wire.ContentChunk:
		return s.chunk(ctx, f, f.Digest)
	case wire.ContentManifest:
		x, ok := v.Artifact(f.Digest)
		if !ok {
			return nil, errUnknownContent
		}
		n := f.Offset / wire.MaxPart // all parts but the last have this size
		if f.Offset%wire.MaxPart != 0 || n >= uint64(len(x.Parts)) {
			return nil, wire.Refuse(wire.CodeMalformed, "no part of the manifest begins at %d", f.Offset)
		}
		b, err := s.chunk(ctx, f, x.Parts[n])
		if err != nil {
			return nil, err
		}
		b.Total = x.ManifestSize
		return b, nil
	case wire.ContentRelease:
		x, ok := v.Artifact(f.Digest)
		if !ok {
			return nil, errUnknownContent
		}
		return &wire.Blob{Data: x.Release}, nil
	case wire.ContentPublishers:
		p, ok := v.Publishers(f.Number)
		if !ok {
			return nil, errUnknownContent
		}
		return &wire.Blob{Data: p.Sealed}, nil
	}
	return nil, wire.Refuse(wire.CodeUnsupported, "%v of kind %d", f.Kind, f.Kind)
}

// chunk gets a chunk for a fetch.
func (s *Server) chunk(ctx context.Context, f *wire.Fetch, d wire.Digest) (*wire.Blob, error) {
	stored, err := s.stored(ctx, f, d)
	if err != nil {
		return nil, err
	}
	codec, data, err := artifact.SplitStored(stored)
	if err != nil {
		return nil, err
	}
	return &wire.Blob{Codec: codec, Data: data}, nil
}

// stored is the stored form of a chunk, from wherever the fetch permits.
func (s *Server) stored(ctx context.Context, f *wire.Fetch, d wire.Digest) ([]byte, error) {
	if !f.Local {
		return s.Content.Get(ctx, d)
	}
	stored, err := s.Content.Local(d)
	if errors.Is(err, content.ErrDamaged) {
		err = content.ErrMissing
	}
	return stored, err
}
