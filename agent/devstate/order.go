package devstate

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The sentinels of orders that are not obeyed.
var (
	// ErrOldOrder says that an order is older than one that was obeyed.
	ErrOldOrder = errors.New("the order is older than one that was obeyed")
	// ErrForeignOrder says that an order is for another device, or for a key that this one does not have.
	ErrForeignOrder = errors.New("the order is not for this device")
	// ErrOrderConflict says that the authority signed two different orders under one number, which an honest core does not.
	ErrOrderConflict = errors.New("another order was signed under the same number")
	// ErrUnknownOrder says that the authority signed an order that this build does not understand. It takes the place of none.
	ErrUnknownOrder = errors.New("the order is of a form that this build does not know")
)

// Orders are the newest order that this device obeys, which lies in the state, and the rules of what may take its place. They may be
// used from any goroutine.
type Orders struct {
	st        *State
	fleet     string
	authority ed25519.PublicKey
}

// OpenOrders reads the newest order of a state. One that does not verify is left out, with a word to the log, and told anew; no older one is
// obeyed in its place.
func OpenOrders(st *State, fleet string, authority ed25519.PublicKey, log *slog.Logger) *Orders {
	o := &Orders{st, fleet, authority}
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.s.OrderSealed) == 0 {
		return o
	}
	held, err := seal.OpenOrder(st.s.OrderSealed, fleet, authority)
	if err != nil {
		log.Error("the order that was obeyed does not verify and will be told anew", "err", err)
		return o
	}
	st.order = held
	return o
}

// Held is the newest order; nil: there is none.
func (o *Orders) Held() *seal.Order {
	o.st.mu.Lock()
	defer o.st.mu.Unlock()
	return o.st.order
}

// Obey verifies a sealed order and keeps it, durably, if it is for this device and newer than every one before. It returns the order if so,
// and nil if it is the one that is held. After an error nothing has changed.
func (o *Orders) Obey(sealed []byte) (*seal.Order, error) {
	n, err := seal.OpenOrder(sealed, o.fleet, o.authority)
	if err != nil {
		return nil, err
	}
	st := o.st
	st.mu.Lock()
	defer st.mu.Unlock()
	highest := seal.Stamp{ClusterEpoch: st.s.OrderEpoch, Number: st.s.Order}
	switch c := n.Stamp().Compare(highest); {
	case n.Device != st.signer.Device:
		return nil, fmt.Errorf("order %d for device %v: %w", n.Number, n.Device, ErrForeignOrder)
	case !slices.Contains(n.Keys, st.signer.KeyID):
		return nil, fmt.Errorf("order %d names other keys: %w", n.Number, ErrForeignOrder)
	case c < 0:
		return nil, fmt.Errorf("order %d of cluster epoch %d, obeyed is %d of %d: %w", n.Number, n.ClusterEpoch, highest.Number, highest.ClusterEpoch, ErrOldOrder)
	case c == 0 && bytes.Equal(sealed, st.s.OrderSealed) && st.order != nil:
		return nil, nil
	case c == 0 && st.order != nil:
		return nil, fmt.Errorf("order %d of cluster epoch %d: %w", n.Number, n.ClusterEpoch, ErrOrderConflict)
	}
	if _, err := n.Desired(); err != nil {
		return nil, fmt.Errorf("order %d: %w: %w", n.Number, ErrUnknownOrder, err)
	}
	old := st.s
	st.s.OrderEpoch, st.s.Order, st.s.OrderSealed = n.ClusterEpoch, n.Number, bytes.Clone(sealed)
	st.s.ClusterEpoch, st.s.FloorMS = max(st.s.ClusterEpoch, n.ClusterEpoch), max(st.s.FloorMS, n.LogTimeMS)
	if err := st.save(); err != nil {
		st.s = old
		return nil, err
	}
	st.order = n
	return n, nil
}
