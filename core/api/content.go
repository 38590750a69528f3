package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

const (
	maxAsked = 4096      // digests in a question for what is missing; v1.AskContent says so too
	maxAsk   = 320 << 10 // bytes of its body
	octets   = "application/octet-stream"
)

const contentText = "Content is what artifacts consist of: chunks of up to 262,144 bytes, by the SHA-256 of their bytes before they are " +
	"compressed. Chunks that no artifact names are kept for a day after they were sent or asked for. These requests may be repeated without harm."

const packText = "The body is a pack: chunks one behind the other, each as digest (32 bytes), length (4 bytes, big-endian), and so many bytes: " +
	"codec (1 byte: 0 as it is, 1 Zstandard) and data. It is taken as a whole or refused as a whole."

type askContentInput struct{ Body v1.AskContent }

func (s *server) askContent(ctx context.Context, _ *call, in *askContentInput) (*reply[v1.MissingContent], error) {
	list, err := digestsOf("body.digests", in.Body.Digests)
	if err != nil {
		return nil, err
	}
	lacking, err := s.Content.Lacking(ctx, list)
	if err != nil {
		return nil, err
	}
	out := v1.MissingContent{Missing: make([]string, len(lacking))}
	for i, d := range lacking {
		out.Missing[i] = d.String()
	}
	return answer(out), nil
}

// digestsOf reads digests of a request.
func digestsOf(location string, texts []string) ([]wire.Digest, error) {
	out := make([]wire.Digest, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = wire.ParseDigest(text); err != nil {
			return nil, invalid(location, "number %d: %v", i+1, err)
		}
	}
	return out, nil
}

type putContentInput struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	RawBody     []byte `contentType:"application/octet-stream"`
}

func (s *server) putContent(ctx context.Context, _ *call, in *putContentInput) (*reply[v1.StoredContent], error) {
	if in.ContentType != octets {
		return nil, problemf(http.StatusUnsupportedMediaType, v1.ProblemInvalid, "header.Content-Type", "is %.80q: send a pack as %s", in.ContentType, octets)
	}
	list, err := pack.Read(in.RawBody)
	if err == nil && len(list) == 0 {
		err = invalid("body", "has no chunk")
	}
	if err != nil {
		return nil, err
	}
	v, err := content.Verify(list)
	if err != nil {
		return nil, err
	}
	if err := s.Content.Put(ctx, v); err != nil {
		return nil, err
	}
	return answer(v1.StoredContent{Stored: len(list)}), nil
}

// contentProblem is the problem of what package content says, or nil.
func contentProblem(err error) error {
	switch {
	case errors.Is(err, pack.ErrPack), errors.Is(err, artifact.ErrChunk):
		return invalid("body", "%v", err)
	case errors.Is(err, artifact.ErrManifest):
		return invalid("body.manifest", "%v", err)
	case errors.Is(err, content.ErrMissing):
		return newProblem(http.StatusConflict, v1.ProblemContent, "", err.Error()+": send what POST /v1/content/missing names, then try again")
	case errors.Is(err, content.ErrQuota):
		return newProblem(http.StatusInsufficientStorage, v1.ProblemFull, "",
			"the core has no room for more content: delete artifacts that are not needed, or raise content_quota of its nodes: "+err.Error())
	case errors.Is(err, content.ErrNoMajority), errors.Is(err, content.ErrUnreached):
		return later(v1.ProblemUnavailable, err.Error()+": sending it again does no harm")
	}
	return nil
}
