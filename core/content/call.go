package content

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
)

// A Call is what one node's keeper asks of another's. Calls are append-only; docs/core-state.md has the table.
type Call uint8

// The calls.
const (
	CallHave  Call = iota // haveRequest; answered with a haveReply
	CallStore             // storeRequest; answered with a storeReply
	CallFetch             // fetchRequest; answered with a fetchReply
)

// digests are packed: 32 bytes each.
type digests []byte

func packDigests(list []wire.Digest) digests {
	out := make(digests, 0, len(list)*len(wire.Digest{}))
	for _, d := range list {
		out = append(out, d[:]...)
	}
	return out
}

// list are the digests, at most most.
func (b digests) list(most int) ([]wire.Digest, error) {
	const size = len(wire.Digest{})
	if len(b)%size != 0 || len(b)/size > most {
		return nil, fmt.Errorf("%d bytes of digests, want at most %d of %d: %w", len(b), most, size, wire.ErrMalformed)
	}
	out := make([]wire.Digest, len(b)/size)
	for i := range out {
		out[i] = wire.Digest(b[i*size:][:size])
	}
	return out, nil
}

// haveRequest asks which chunks are stored, and counts as a touch of them.
type haveRequest struct {
	Digests digests `cbor:"1,keyasint"` // at most maxAsk
}

// haveReply has a bit for each digest, the lowest of a byte first: it is stored.
type haveReply struct {
	Stored []byte `cbor:"1,keyasint"`
}

// storeRequest has chunks stored.
type storeRequest struct {
	Pack []byte `cbor:"1,keyasint"`
}

// storeReply says that all chunks are on the disk, or that they have no room.
type storeReply struct {
	Full bool `cbor:"1,keyasint,omitempty"`
}

// fetchRequest asks for chunks.
type fetchRequest struct {
	Digests digests `cbor:"1,keyasint"` // at most maxWanted
}

// fetchReply has the first of them that are stored, as many as a call takes; at least one, if any is.
type fetchReply struct {
	Pack []byte `cbor:"1,keyasint"`
}

// Handle answers another node's call.
func (k *Keeper) Handle(ctx context.Context, call Call, body []byte) ([]byte, error) {
	switch call {
	case CallHave:
		return handle(body, func(r *haveRequest) (*haveReply, error) {
			list, err := r.Digests.list(maxAsk)
			if err != nil {
				return nil, err
			}
			return &haveReply{k.bits(list)}, nil
		})
	case CallStore:
		return handle(body, func(r *storeRequest) (*storeReply, error) {
			list, err := pack.Read(r.Pack)
			if err != nil {
				return nil, err
			}
			v, err := Verify(list)
			if err != nil {
				return nil, err
			}
			err = k.store.Put(ctx, v)
			if errors.Is(err, ErrQuota) {
				return &storeReply{Full: true}, nil
			}
			return new(storeReply), err
		})
	case CallFetch:
		return handle(body, func(r *fetchRequest) (*fetchReply, error) {
			list, err := r.Digests.list(maxWanted)
			if err != nil {
				return nil, err
			}
			return k.gather(list), nil
		})
	}
	return nil, fmt.Errorf("call %d about content is not known to this build: %w", call, wire.ErrMalformed)
}

func handle[Q, A any](body []byte, f func(*Q) (*A, error)) ([]byte, error) {
	q := new(Q)
	if err := wire.Unmarshal(body, q); err != nil {
		return nil, err
	}
	a, err := f(q)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(a)
}

// bits says which chunks are stored here, and touches them.
func (k *Keeper) bits(list []wire.Digest) []byte {
	out := make([]byte, (len(list)+7)/8)
	for i := range list {
		out[i/8] |= 1 << (i % 8)
	}
	for _, i := range k.store.Touch(list) {
		out[i/8] &^= 1 << (i % 8)
	}
	return out
}

// gather packs chunks that are stored here, in their order.
func (k *Keeper) gather(list []wire.Digest) *fetchReply {
	a := new(fetchReply)
	for _, d := range list {
		stored, err := k.store.Get(d)
		if err != nil {
			continue // the other node asks the next one
		}
		c := pack.Chunk{Digest: d, Stored: stored}
		if len(a.Pack) > 0 && len(a.Pack)+c.Size() > maxCallPack {
			break
		}
		a.Pack = pack.Append(a.Pack, c)
	}
	return a
}
