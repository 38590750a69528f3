package custody

import (
	"crypto/ed25519"

	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Receipted takes a device's receipt, verified by the authority's key: one that does not verify helps nobody, and the device
// would only wonder whom to blame. It is kept for a device that is not here now; false: it is not newer than one that came
// before, or is none.
func (k *Keeper) Receipted(id ident.DeviceID, sealed []byte, authority ed25519.PublicKey) bool {
	r, err := seal.OpenReceipt(sealed, authority)
	if err != nil || r.Device != id {
		k.Log.Error("receipt from the core not taken", "device", id.String(), "err", err)
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.device(id)
	if d == nil {
		return true
	}
	p := Position{r.Epoch, r.Seq, r.Chain}
	if d.receipt != nil && !d.covers.Before(&p) {
		return false
	}
	d.receipt, d.covers = sealed, p
	if !p.Before(&d.kept) {
		d.kept = Position{}
	}
	return true
}

// Receipt is a device's newest receipt; nil: none is known.
func (k *Keeper) Receipt(id ident.DeviceID) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.devices[id]; d != nil {
		return d.receipt
	}
	return nil
}

// Delivered lets go of a device's receipt once the device has shown that it holds nothing that is not newer: its oldest
// statement comes behind it.
func (k *Keeper) Delivered(id ident.DeviceID, oldest Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[id]
	if d == nil || d.receipt == nil || !d.covers.Before(&oldest) {
		return
	}
	d.receipt = nil
	if d.kept == (Position{}) {
		delete(k.devices, id)
	}
}
