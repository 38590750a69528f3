package api

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const publishersText = "A set says who may sign artifacts, from when it is taken in until the next one is. The core signs set 1 alone. Each later one is signed " +
	"by root keys of the set before, which operators keep elsewhere: whoever has the core cannot say who may publish."

// publisherSet is a record as the API writes it.
func publisherSet(p *registry.PublisherSet) v1.PublisherSet {
	out := v1.PublisherSet{
		Number: p.Number, Publishers: []v1.Publisher{}, Roots: []string{}, SetAt: at(p.SetMS), SetBy: p.By, Sealed: base64.StdEncoding.EncodeToString(p.Sealed),
	}
	set, err := p.Open()
	if err != nil {
		return out // it was opened when it was taken in
	}
	out.Threshold = int(set.Threshold)
	for _, x := range set.Publishers {
		out.Publishers = append(out.Publishers, v1.Publisher{Name: x.Name, Key: seal.PublisherKeyOf(x.Key).String()})
	}
	for _, k := range set.Roots {
		out.Roots = append(out.Roots, seal.PublisherKeyOf(k).String())
	}
	return out
}

type listPublishersInput struct {
	Reading
	Paging
}

func (s *server) listPublishers(ctx context.Context, c *call, in *listPublishersInput) (*reply[v1.List[v1.PublisherSet]], error) {
	return listing[registry.PublisherSet, v1.PublisherSet]{
		visit: c.view.AllPublishers,
		name:  func(p *registry.PublisherSet) string { return fmt.Sprintf("%020d", p.Number) },
		show:  publisherSet,
	}.page(ctx, in.Paging, listOf("publishers"))
}

type setPublishersInput struct{ Body v1.SetPublishers }

func (s *server) setPublishers(ctx context.Context, c *call, in *setPublishersInput) (*reply[v1.PublisherSet], error) {
	sealed, err := s.sealedSet(&in.Body)
	if err != nil {
		return nil, err
	}
	p, err := propose[*registry.PublisherSet](ctx, s, c, &command.SetPublishers{Sealed: sealed})
	if err != nil {
		return nil, err
	}
	return answer(publisherSet(p)), nil
}

// sealedSet is the set of a request with its signatures: of set 1 the authority's.
func (s *server) sealedSet(b *v1.SetPublishers) ([]byte, error) {
	switch {
	case (b.Payload == "") == (b.Sealed == ""):
		return nil, invalid("body", "wants exactly one of payload, for set 1, and sealed, for a later one")
	case b.Sealed != "":
		sealed, err := base64.StdEncoding.Strict().DecodeString(b.Sealed)
		if err != nil {
			return nil, invalid("body.sealed", "is no base64: %v", err)
		}
		if _, err := seal.PeekPublisherSet(sealed); err != nil {
			return nil, invalid("body.sealed", "%v", err)
		}
		return sealed, nil
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(b.Payload)
	if err != nil {
		return nil, invalid("body.payload", "is no base64: %v", err)
	}
	set := new(seal.PublisherSet)
	if err := wire.Unmarshal(payload, set); err != nil {
		return nil, invalid("body.payload", "%v", err)
	}
	if set.Number != 1 {
		return nil, invalid("body.payload", "is set %d: only the first is signed by the core, later ones come sealed by root keys", set.Number)
	}
	sealed, err := s.SignPublishers(set)
	if err != nil {
		return nil, invalid("body.payload", "%v", err)
	}
	return sealed, nil
}
